//! Restore points as a mounted file system: `view` behind FUSE.
//!
//! | module | holds |
//! |---|---|
//! | [`session`] | mount options, the life of a mount, following new restore points |
//! | [`adapter`] | FUSE requests to questions of the view, and back |
//! | [`errno`] | errors to error numbers, once |
//! | [`figures`] | requests as metrics |
//! | [`ahead`] | threads that load what will be read next |
//! | [`tuning`] | the kernel's read-ahead |
//! | [`umount`] | ending a mount |
//!
//! What a mount costs is the number of requests, so the kernel is let keep what it learns: names and
//! attributes for a year, content and directories as long as it has memory. `open`, `release`, `opendir`,
//! `releasedir` and `flush` are not needed on immutable data and answered `ENOSYS` once, which ends them.
//!
//! Threads: FUSE threads answer requests and block on the medium; ahead threads load chunks; one thread, the
//! caller's, follows the repository and sends invalidations. Invalidation can wait for a FUSE thread, so a
//! FUSE thread never sends any.

mod adapter;
mod ahead;
mod errno;
mod figures;
mod session;
#[cfg(test)]
mod tests;
mod tuning;
mod umount;

pub use adapter::{Request, RequestCounts};
pub use session::{MountOptions, run};
pub use umount::umount;
