//! The paths to back up, as a tree of names: directories above them are in the point with nothing but
//! the way down.

use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// What to take of one directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Roots {
    /// Everything.
    pub(super) whole: bool,
    /// Otherwise these names, sorted.
    pub(super) children: BTreeMap<Vec<u8>, Roots>,
}

impl Roots {
    /// From absolute paths.
    ///
    /// # Errors
    /// `Usage` for no path, a path that is not absolute, or one with `..` in it.
    pub(super) fn new(paths: &[PathBuf]) -> Result<Self> {
        let usage = |what: String| Error::new(ErrorKind::Usage, what);
        if paths.is_empty() {
            return Err(usage("nothing to back up".into()).advise("name one or more directories or files"));
        }
        let mut root = Self::default();
        for path in paths {
            let wrong = || usage(format!("{} is not an absolute path", path.display()));
            root.add(path).ok_or_else(wrong)?;
        }
        Ok(root)
    }

    fn add(&mut self, path: &Path) -> Option<()> {
        let mut components = path.components();
        components.next().filter(|first| *first == Component::RootDir)?;
        let mut at = self;
        for component in components {
            let Component::Normal(name) = component else { return None };
            at = at.children.entry(name.as_bytes().to_vec()).or_default();
        }
        at.whole = true;
        Some(())
    }
}

/// Paths as the walk will meet them: absolute, and with no symbolic link but perhaps the last name.
///
/// # Errors
/// When a path does not exist.
pub(super) fn resolve(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let failed = |path: &Path| {
        let what = format!("finding {}", path.display());
        move |error| Error::io(what, error)
    };
    let one = |path: &PathBuf| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let path = parent.canonicalize().map_err(failed(path))?.join(name);
            path.symlink_metadata().map_err(failed(&path)).map(|_| path)
        }
        _ => path.canonicalize().map_err(failed(path)),
    };
    paths.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_inside_another_changes_nothing() {
        let roots = Roots::new(&["/a/b".into(), "/a".into(), "/c/d/".into()]).unwrap();
        assert!(!roots.whole && roots.children[&b"a"[..]].whole);
        assert!(!roots.children[&b"c"[..]].whole && roots.children[&b"c"[..]].children[&b"d"[..]].whole);
        assert!(Roots::new(&["/".into()]).unwrap().whole);
    }

    #[test]
    fn relative_paths_are_refused() {
        for path in ["a", "", "/a/../b"] {
            assert_eq!(Roots::new(&[path.into()]).unwrap_err().kind(), ErrorKind::Usage);
        }
        assert_eq!(Roots::new(&[]).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn links_on_the_way_are_resolved_and_the_last_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::fs::write(real.join("file"), "x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let paths = resolve(&[link.join("file"), link.clone()]).unwrap();
        assert_eq!(paths, [real.join("file"), real.with_file_name("link")]);
        assert!(resolve(&[dir.path().join("none")]).is_err());
    }
}
