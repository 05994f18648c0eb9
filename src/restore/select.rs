//! Which of a restore point's files are wanted: patterns as in `.gitignore`, held against the path in the restore point.

use crate::error::{Error, ErrorKind, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the patterns say of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Restore it, and everything below that is not excluded.
    Yes,
    /// A directory that is only restored if something below it is.
    OnTheWay,
    /// Leave it, and everything below.
    No,
}

/// Patterns of `--include` and `--exclude`.
pub struct Selection {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Selection {
    /// Reads the patterns. Without any `include`, everything is included.
    ///
    /// # Errors
    /// `Usage` for a pattern that is none.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let include = if include.is_empty() { None } else { Some(build(include)?) };
        Ok(Self { include, exclude: build(exclude)? })
    }

    /// Whether everything is wanted.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// What to do with `path` (from the restore point's root, without a leading slash) in a directory for
    /// which the answer was `parent`.
    #[must_use]
    pub fn ask(&self, path: &[u8], is_dir: bool, parent: Wanted) -> Wanted {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        if !self.exclude.is_empty() && self.exclude.matched(path, is_dir).is_ignore() {
            return Wanted::No;
        }
        match (&self.include, parent) {
            (None, _) | (_, Wanted::Yes) => Wanted::Yes,
            (Some(include), _) if include.matched(path, is_dir).is_ignore() => Wanted::Yes,
            _ if is_dir => Wanted::OnTheWay,
            _ => Wanted::No,
        }
    }
}

fn build(patterns: &[String]) -> Result<Gitignore> {
    let wrong = |pattern: &str, e: ignore::Error| {
        Error::new(ErrorKind::Usage, format!("'{pattern}' is not a pattern: {e}"))
            .advise("patterns are written as in .gitignore: *.log, /etc/ssl, cache/, **/tmp")
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|e| wrong(pattern, e))?;
    }
    builder.build().map_err(|e| wrong(&patterns.join(" "), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Selection::new(&own(include), &own(exclude)).unwrap()
    }

    #[test]
    fn excludes_win() {
        let s = selection(&[], &["*.log", "/var/cache/", "!keep.log"]);
        assert_eq!(s.ask(b"a/b.log", false, Wanted::Yes), Wanted::No);
        assert_eq!(s.ask(b"a/keep.log", false, Wanted::Yes), Wanted::Yes);
        assert_eq!(s.ask(b"var/cache", true, Wanted::Yes), Wanted::No);
        assert_eq!(s.ask(b"var/cache", false, Wanted::Yes), Wanted::Yes);
        assert_eq!(s.ask(b"x/var/cache", true, Wanted::Yes), Wanted::Yes);
        assert_eq!(s.ask(b"odd\xff.log", false, Wanted::Yes), Wanted::No);
        assert!(selection(&[], &[]).is_all() && !s.is_all());
    }

    #[test]
    fn includes_open_the_way_to_what_they_name() {
        let s = selection(&["/etc/ssh/", "*.conf"], &["secret.conf"]);
        assert_eq!(s.ask(b"etc", true, Wanted::OnTheWay), Wanted::OnTheWay);
        assert_eq!(s.ask(b"etc/ssh", true, Wanted::OnTheWay), Wanted::Yes);
        assert_eq!(s.ask(b"etc/ssh/any", false, Wanted::Yes), Wanted::Yes);
        assert_eq!(s.ask(b"etc/passwd", false, Wanted::OnTheWay), Wanted::No);
        assert_eq!(s.ask(b"etc/x.conf", false, Wanted::OnTheWay), Wanted::Yes);
        assert_eq!(s.ask(b"etc/secret.conf", false, Wanted::OnTheWay), Wanted::No);
        assert!(Selection::new(&["{a".into()], &[]).is_err());
    }
}
