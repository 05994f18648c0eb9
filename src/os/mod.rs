//! The operating system as the repository needs it: safe wrappers over Linux system calls.
//!
//! This is the lowest layer and, but for tests, the only one with `unsafe`. Everything that ingest
//! reads and restore writes goes through a [`Dir`] handle and one name in it: a symbolic link is never
//! followed, a name can not leave its directory, and paths may be deeper than `PATH_MAX`.
//!
//! | module | holds |
//! |---|---|
//! | [`dir`] | directory handles: open, list, look up |
//! | [`stat`] | attributes of one item by `statx`, inode flags and generations |
//! | [`xattr`] | extended attributes, so also POSIX ACLs and file capabilities |
//! | [`read`] | data and holes, cache advice, punching, directory fsync |
//! | [`memory`] | the allocator's habits |
//! | [`mount`] | ending a mount |
//! | [`process`] | open files and memory of this process |
//! | [`write`] | what restore makes: items, owners, modes, times, flags |

pub mod dir;
pub mod memory;
pub mod mount;
pub mod process;
pub mod read;
pub mod stat;
mod sys;
#[cfg(test)]
pub mod tests;
pub mod write;
pub mod xattr;

pub use dir::{Dir, DirEntry};
pub use process::{open_files, prefer_large_pages, raise_open_files};
pub use read::{
    allocate, begin_writing, data_ranges, data_ranges_from, fadvise_dontneed, fadvise_sequential, fadvise_willneed,
    finish_writing, fsync_dir, pread_drop_behind, pread_exact_or_short, punch_hole,
};
pub use stat::{FileKind, Stat, Time, generation, inode_flags, stat_file};
pub use sys::{exit_at_once, getegid, geteuid, set_umask};
pub use write::{USER_FLAGS, exchange, ftruncate, pwrite_all, set_inode_flags};
