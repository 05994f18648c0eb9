//! Restore points as a mounted file system: `view` behind FUSE.
//!
//! | module | holds |
//! |---|---|
//! | [`session`] | mount options, the life of a mount, following new restore points |
//! | [`adapter`] | FUSE requests to questions of the view, and back |
//! | [`errno`] | errors to error numbers, once |
//! | [`figures`] | requests as metrics |
//! | [`fetch`] | threads for requests that wait for the medium |
//! | [`listing`] | directory listings as replies |
//! | [`ahead`] | threads that load what will be read next |
//! | [`neighbours`] | small files put into the page cache before they are asked for |
//! | [`tuning`] | the kernel's read-ahead |
//! | [`umount`] | ending a mount |
//!
//! What a mount costs is the number of requests, so the kernel is let keep what it learns: names and
//! attributes for a year, content and directories as long as it has memory. `open`, `release`, `opendir`,
//! `releasedir` and `flush` are not needed on immutable data and answered `ENOSYS` once, which ends them.
//!
//! Threads: FUSE threads take requests and answer what is in memory; fetch threads answer what must be read first;
//! ahead threads load chunks; one thread stores small files in the page cache; one thread, the caller's, follows
//! the repository and sends invalidations. Storing and invalidation can wait for an answer, so a thread that gives
//! answers never does either, nor waits for one that does.

mod adapter;
mod ahead;
mod errno;
mod fetch;
mod figures;
mod listing;
mod neighbours;
mod session;
#[cfg(test)]
mod tests;
mod tuning;
mod umount;

pub use adapter::{Request, RequestCounts};
pub use session::{MountOptions, run};
pub use umount::umount;
