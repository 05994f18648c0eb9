//! `relict::os` against the independent walker, on random trees: a copy made through `os` alone must be
//! the same tree, by the other's judgement. It is also the shortest example of how to use `os`.
//! One test binary includes this file, as it does `self_test.rs`.

use std::collections::HashMap;
use std::io;

use proptest::prelude::*;
use relict::os::write::{hard_link, set_times_file};
use relict::os::{self, Dir, FileKind, Stat, xattr};

use crate::support::tree_gen::{arb_changes, arb_tree, build, mutate};
use crate::support::walker::{CompareOptions, diff, manifest};

/// First copied name of an inode, as components from the root.
type Seen = HashMap<(u32, u32, u64), Vec<Vec<u8>>>;

/// Copies everything below `from`, and the attributes of `from` itself, to `to`.
fn copy_tree(from: &Dir, to: &Dir) -> io::Result<()> {
    copy_entries(from, to, to, &mut Vec::new(), &mut Seen::new())?;
    let stat = from.stat_self()?;
    to.set_owner_self(stat.uid, stat.gid)?;
    to.set_mode_self(stat.mode)?;
    for (name, value) in xattr::read_all(from)? {
        xattr::set_xattr_fd(to, &name, &value)?;
    }
    to.set_times_self(stat.mtime, None)
}

fn copy_entries(from: &Dir, root: &Dir, to: &Dir, at: &mut Vec<Vec<u8>>, seen: &mut Seen) -> io::Result<()> {
    for entry in from.entries()? {
        let stat = from.stat(&entry.name)?;
        assert!(entry.kind.is_none() || entry.kind == stat.kind());
        at.push(entry.name.clone());
        if stat.is_dir() {
            to.mkdir(&entry.name, 0o700)?;
            let (child_from, child_to) = (from.open_dir(&entry.name)?, to.open_dir(&entry.name)?);
            copy_entries(&child_from, root, &child_to, at, seen)?;
            copy_attributes(from, to, &entry.name, &stat)?;
        } else if let Some(first) = seen.get(&(stat.dev.0, stat.dev.1, stat.ino)) {
            let (name, parents) = first.split_last().ok_or(io::ErrorKind::NotFound)?;
            hard_link(&root.open_beneath(parents)?, name, to, &entry.name)?;
        } else {
            copy_item(from, to, &entry.name, &stat)?;
            copy_attributes(from, to, &entry.name, &stat)?;
            seen.insert((stat.dev.0, stat.dev.1, stat.ino), at.clone());
        }
        at.pop();
    }
    Ok(())
}

fn copy_item(from: &Dir, to: &Dir, name: &[u8], stat: &Stat) -> io::Result<()> {
    match stat.kind().ok_or(io::ErrorKind::Unsupported)? {
        FileKind::File => {
            let (source, target) = (from.open_file(name)?, to.create_file(name, 0o600)?);
            assert_eq!(os::stat_file(&source)?.ino, stat.ino);
            os::ftruncate(&target, stat.size)?;
            for range in os::data_ranges(&source, stat.size) {
                let (offset, bytes) = range?;
                let mut buffer = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
                assert_eq!(os::pread_exact_or_short(&source, &mut buffer, offset)?, buffer.len());
                os::pwrite_all(&target, &buffer, offset)?;
            }
            Ok(())
        }
        FileKind::Symlink => to.symlink(&from.read_link(name)?, name),
        kind => to.mknod(name, kind, 0o600, stat.rdev),
    }
}

/// In the order that `os::write` asks for.
fn copy_attributes(from: &Dir, to: &Dir, name: &[u8], stat: &Stat) -> io::Result<()> {
    to.set_owner(name, stat.uid, stat.gid)?;
    if stat.kind() != Some(FileKind::Symlink) {
        to.set_mode(name, stat.mode)?;
    }
    // What a default ACL of the parent gave is not the source's.
    let wanted = xattr::read_all_at(from, name)?;
    for (attribute, _) in xattr::read_all_at(to, name)? {
        if !wanted.iter().any(|(other, _)| *other == attribute) {
            xattr::remove_xattr_at(to, name, &attribute)?;
        }
    }
    for (attribute, value) in &wanted {
        xattr::set_xattr_at(to, name, attribute, value)?;
    }
    if stat.is_file() {
        let file = to.open_file(name)?;
        let flags = os::inode_flags(&from.open_file(name)?)?;
        assert_eq!(os::set_inode_flags(&file, flags)?, 0);
        return set_times_file(&file, stat.mtime, Some(stat.atime));
    }
    to.set_times(name, stat.mtime, Some(stat.atime))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_copy_through_os_is_the_same_tree(plan in arb_tree(), changes in arb_changes()) {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        build(&plan, &from).unwrap();
        mutate(&changes, &from).unwrap();
        copy_tree(&Dir::open_root(&from).unwrap(), &Dir::open_root(&to).unwrap()).unwrap();
        let lines = diff(&manifest(&from), &manifest(&to), &CompareOptions::all().ignoring(&["btime", "blocks"]));
        prop_assert!(lines.is_empty(), "{lines:#?}");
    }
}
