//! Snapshots that backups are made of: taken, read, and removed when they are not needed any more. The only place of
//! ingest that starts programs.
//!
//! | module | holds |
//! |---|---|
//! | [`btrfs`] | read-only snapshots of a subvolume, sent as differences |
//! | [`commands`] | snapshots of any storage, made by commands of the user, scanned as a directory |

pub mod btrfs;
pub mod commands;
