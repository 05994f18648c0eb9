//! Attributes: owner, mode, extended attributes, times, flags, in the order in which none undoes another.
//!
//! chown clears set-uid bits and capabilities, so the mode and the extended attributes come after it; a
//! write changes the time, so times come after content; an immutable file can be changed no more, so
//! flags come last. Where the owner cannot be given, set-uid and set-gid bits are not given either: the
//! bits of a file of somebody else would make it a program that acts for us.

use super::dir::DirNode;
use super::lookup::Head;
use super::report::Finding;
use super::shared::Shared;
use crate::catalog::points::printable;
use crate::os::{self, Dir, Stat, write, xattr};
use repo_format::{FileKind, Inode, Time};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{PermissionsExt, fchown};

const PERMISSIONS: u32 = 0o7777;
const SET_ID: u32 = 0o6000;
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// What is being given attributes.
pub(super) struct Place<'a> {
    /// Path in the restore point, for reports.
    pub path: &'a dyn Fn() -> Vec<u8>,
    /// We made it just now.
    pub fresh: bool,
}

/// The mode with which a file is created: never more than it gets in the end, and closed to others as
/// long as its owner or its access list are still to come.
pub(super) fn first_mode(shared: &Shared<'_>, head: &Head) -> u32 {
    let mode = head.inode.mode & 0o777;
    let ours = head.inode.uid == shared.us.uid && head.inode.gid == shared.us.gid;
    if ours && head.xattrs.is_empty() { mode } else { mode & 0o600 }
}

/// Makes a directory, open to us alone, or takes the one that is there; true when it was made.
/// What is no directory makes room for one.
pub(super) fn make_dir(shared: &Shared<'_>, above: &Dir, name: &[u8]) -> io::Result<(Dir, bool)> {
    let fresh = match above.mkdir(name, 0o700) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if above.stat(name)?.is_dir() {
                false
            } else if shared.overwrite == super::Overwrite::Never {
                return Err(io::Error::other("something else has its name"));
            } else {
                above.unlink(name)?;
                above.mkdir(name, 0o700)?;
                true
            }
        }
        Err(e) => return Err(e),
    };
    let dir = above.open_dir(name)?;
    if !fresh && !shared.us.is_root() {
        // Ours, but closed to us: it gets its own mode when it is finished.
        let stat = dir.stat_self()?;
        if stat.uid == shared.us.uid && stat.mode & 0o700 != 0o700 {
            dir.set_mode_self(stat.mode & 0o777 | 0o700)?;
        }
    }
    Ok((dir, fresh))
}

/// Whether what is made in `dir` gets our group and no access list from it.
pub(super) fn inherits_nothing(shared: &Shared<'_>, dir: &Dir) -> bool {
    let ours = dir.stat_self().is_ok_and(|stat| stat.gid == shared.us.gid);
    ours && matches!(xattr::get_fd(dir, DEFAULT_ACL), Ok(None) | Err(_))
}

/// Takes away what a directory that we made has from the one above it.
pub(super) fn drop_inherited(shared: &Shared<'_>, dir: &Dir) {
    for name in [DEFAULT_ACL, ACCESS_ACL] {
        let _ = xattr::remove_xattr_fd(dir, name);
    }
    let _ = dir.set_owner_self(shared.us.uid, shared.us.gid);
    let _ = dir.set_mode_self(0o700);
}

/// All attributes of a file but the flags that would forbid its renaming.
///
/// # Errors
/// Only what shows that the file cannot be used at all.
pub(super) fn finish_file(
    shared: &Shared<'_>,
    file: &File,
    head: &Head,
    place: &Place<'_>,
    plain: bool,
    whole: bool,
) -> io::Result<()> {
    let there = if place.fresh && plain { assumed(shared, head) } else { There::of(file)? };
    give(shared, file, head, place, &there);
    let time_is_right = !place.fresh && there.stat.as_ref().is_some_and(|s| time_of(s) == head.inode.mtime);
    if whole && !time_is_right {
        trouble(shared, place, "its time", set_time(file, head.inode.mtime));
    }
    Ok(())
}

/// All attributes of a directory.
pub(super) fn finish_dir(shared: &Shared<'_>, dir: &Dir, head: &Head, place: &Place<'_>) {
    let dir = dir.as_file();
    match There::of(dir) {
        Ok(there) => give(shared, dir, head, place, &there),
        Err(error) => trouble(shared, place, "its attributes", Err(error)),
    }
    trouble(shared, place, "its time", set_time(dir, head.inode.mtime));
    set_flags(shared, dir, head, place);
}

/// All attributes of a symbolic link, pipe, socket or device.
pub(super) fn finish_node(shared: &Shared<'_>, dir: &Dir, name: &[u8], head: &Head, place: &Place<'_>, plain: bool) {
    let inode = &head.inode;
    let done = dir.stat(name).and_then(|stat| {
        let given = owner(shared, place, inode, (stat.uid, stat.gid), &|uid, gid| dir.set_owner(name, uid, gid));
        let mode = if given { inode.mode & PERMISSIONS } else { inode.mode & PERMISSIONS & !SET_ID };
        if inode.kind() != FileKind::Symlink && stat.mode & PERMISSIONS != mode {
            dir.set_mode(name, mode)?;
        }
        for (key, value) in &head.xattrs {
            xattr_trouble(shared, place, key, xattr::set_xattr_at(dir, name, key, value));
        }
        if !plain && inode.kind() != FileKind::Symlink {
            drop_foreign_acl(shared, dir, name, head, place);
        }
        dir.set_times(name, os_time(inode.mtime), None)
    });
    trouble(shared, place, "its attributes", done);
}

/// An access list that came from the directory and not from the restore point.
fn drop_foreign_acl(shared: &Shared<'_>, dir: &Dir, name: &[u8], head: &Head, place: &Place<'_>) {
    let own = head.xattrs.iter().any(|(key, _)| **key == *ACCESS_ACL);
    if !own && matches!(xattr::get_at(dir, name, ACCESS_ACL), Ok(Some(_))) {
        xattr_trouble(shared, place, ACCESS_ACL, xattr::remove_xattr_at(dir, name, ACCESS_ACL));
    }
}

/// What stands in the target before it is given its attributes.
struct There {
    uid: u32,
    gid: u32,
    mode: u32,
    /// May have extended attributes that it should not have.
    xattrs: bool,
    stat: Option<Stat>,
}

impl There {
    fn of(file: &File) -> io::Result<Self> {
        let stat = os::stat_file(file)?;
        Ok(Self { uid: stat.uid, gid: stat.gid, mode: stat.mode & PERMISSIONS, xattrs: true, stat: Some(stat) })
    }
}

/// What a file is that was created in a directory that hands nothing down.
fn assumed(shared: &Shared<'_>, head: &Head) -> There {
    let mode = first_mode(shared, head);
    There { uid: shared.us.uid, gid: shared.us.gid, mode, xattrs: false, stat: None }
}

/// Owner, mode, extended attributes.
fn give(shared: &Shared<'_>, file: &File, head: &Head, place: &Place<'_>, there: &There) {
    let inode = &head.inode;
    let wanted = inode.mode & PERMISSIONS;
    let given = owner(shared, place, inode, (there.uid, there.gid), &|uid, gid| fchown(file, Some(uid), Some(gid)));
    let mode = if given { wanted } else { wanted & !SET_ID };
    let chowned = (there.uid, there.gid) != (inode.uid, inode.gid) && given;
    if there.mode != mode || (chowned && mode & SET_ID != 0) {
        trouble(shared, place, "its mode", file.set_permissions(std::fs::Permissions::from_mode(mode)));
    }
    if there.xattrs || !head.xattrs.is_empty() {
        xattrs(shared, file, head, place, there.xattrs);
    }
}

/// Whether the owner and group are the wanted ones afterwards.
fn owner(
    shared: &Shared<'_>,
    place: &Place<'_>,
    inode: &Inode,
    there: (u32, u32),
    change: &dyn Fn(u32, u32) -> io::Result<()>,
) -> bool {
    if there == (inode.uid, inode.gid) {
        return true;
    }
    let first = || printable(&(place.path)());
    if !shared.us.is_root() {
        shared.log.note("owner not restored, because only root can (set-uid bits are left out there)", first);
        return false;
    }
    match change(inode.uid, inode.gid) {
        Ok(()) => true,
        Err(error) => {
            trouble(shared, place, "its owner", Err(error));
            false
        }
    }
}

fn xattrs(shared: &Shared<'_>, file: &File, head: &Head, place: &Place<'_>, may_have: bool) {
    let mut there: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    if may_have {
        match xattr::read_all(file) {
            Ok(all) => there.extend(all),
            Err(e) => trouble(shared, place, "its extended attributes", Err(e)),
        }
    }
    for (name, value) in &head.xattrs {
        if there.remove(&name[..]).as_deref() != Some(value) {
            xattr_trouble(shared, place, name, xattr::set_xattr_fd(file, name, value));
        }
    }
    for name in there.keys().filter(|name| removable(name)) {
        xattr_trouble(shared, place, name, xattr::remove_xattr_fd(file, name));
    }
}

/// What a file has without anyone having given it: labels of the security module stay.
fn removable(name: &[u8]) -> bool {
    !name.starts_with(b"security.") || name == b"security.capability"
}

fn xattr_trouble(shared: &Shared<'_>, place: &Place<'_>, name: &[u8], done: io::Result<()>) {
    let Err(error) = done else { return };
    let only_root = name.starts_with(b"security.") || name.starts_with(b"trusted.");
    let shown = printable(name);
    if only_root && !shared.us.is_root() {
        let first = || format!("{} ({shown})", printable(&(place.path)()));
        return shared.log.note("extended attributes not restored, because only root can", first);
    }
    let what = format!("its extended attribute {shown} could not be restored: ");
    let what = match error.raw_os_error() {
        // ext4 says so of what does not fit beside an inode. Where there is no room for content either, content says so.
        Some(libc::ENOSPC | libc::E2BIG) => what + "it is too large for the target's file system, or that is full",
        _ => what + &error.to_string(),
    };
    shared.found((place.path)(), what);
}

/// Whether the inode has flags that restoring sets.
pub(super) const fn has_settable_flags(inode: &Inode) -> bool {
    inode.flags & os::USER_FLAGS != 0
}

/// Sets inode flags; after this the file may not be changed any more.
pub(super) fn set_flags(shared: &Shared<'_>, file: &File, head: &Head, place: &Place<'_>) {
    if !has_settable_flags(&head.inode) {
        return;
    }
    match os::set_inode_flags(file, head.inode.flags) {
        Ok(0) => {}
        Ok(_) => {
            shared.log.note("inode flags that the target's file system does not have", || printable(&(place.path)()))
        }
        Err(e) if !shared.us.is_root() && e.raw_os_error() == Some(libc::EPERM) => {
            shared.log.note("inode flags not restored, because only root can", || printable(&(place.path)()));
        }
        Err(e) => trouble(shared, place, "its inode flags", Err(e)),
    }
}

/// Flags of an inode with several names, once it has them all.
pub(super) fn late_flags(shared: &Shared<'_>, dir: &DirNode<'_>, name: &[u8], head: &Head) {
    let place = Place { path: &|| dir.path_of(name), fresh: false };
    match dir.open().and_then(|dir| dir.open_file(name)) {
        Ok(file) => set_flags(shared, &file, head, &place),
        Err(error) => trouble(shared, &place, "its inode flags", Err(error)),
    }
}

/// A time as `os` has it.
const fn os_time(time: Time) -> os::Time {
    os::Time { sec: time.sec, nsec: time.nsec }
}

/// The modification time that a file has.
pub(super) const fn time_of(stat: &Stat) -> Time {
    Time { sec: stat.mtime.sec, nsec: stat.mtime.nsec }
}

fn set_time(file: &File, mtime: Time) -> io::Result<()> {
    write::set_times_file(file, os_time(mtime), None)
}

/// Whether an existing file has all the attributes that it should have.
pub(super) fn is_right(shared: &Shared<'_>, file: &File, stat: &Stat, head: &Head) -> io::Result<bool> {
    let inode = &head.inode;
    let owned = (stat.uid, stat.gid) == (inode.uid, inode.gid);
    let wanted = if owned { inode.mode } else { inode.mode & !SET_ID };
    if (!owned && shared.us.is_root()) || (stat.mode ^ wanted) & PERMISSIONS != 0 {
        return Ok(false);
    }
    let there: HashMap<Vec<u8>, Vec<u8>> = xattr::read_all(file)?.into_iter().filter(|(n, _)| removable(n)).collect();
    let wanted = head.xattrs.iter().filter(|(n, _)| removable(n));
    Ok(there.len() == wanted.clone().count()
        && wanted.clone().all(|(n, v)| there.get(&n[..]).is_some_and(|t| t[..] == v[..])))
}

fn trouble(shared: &Shared<'_>, place: &Place<'_>, what: &str, done: io::Result<()>) {
    if let Err(error) = done {
        let what = format!("{what} could not be restored: {error}");
        shared.find(Finding { path: (place.path)(), what, ranges: Vec::new() }, &error);
    }
}
