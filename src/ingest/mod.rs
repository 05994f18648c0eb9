//! Making restore points from a directory tree.
//!
//! | module | holds |
//! |---|---|
//! | [`backup`] | one backup from options to sealed point |
//! | `scan` | one scan from its first directory to the tree's edits |
//! | `walker` | the walk in one order, compared with the parent point |
//! | `listing` | listings made ahead of the walk |
//! | `other_names` | files whose first name went away |
//! | `links`, `seen`, `file_systems`, `roots`, [`exclude`] | what the walk asks |
//! | `workers` | threads and queues, and why they cannot wait in a circle |
//! | `small`, `large`, `packer` | files to chunks to segments |
//! | [`chunker`], `zero` | where content is cut: a pure function |
//! | `file`, `source` | one file; the operating system in the tree's types |
//! | [`change`] | the one language of streams |
//! | [`image`] | disk images: RBD streams, NBD servers, changed extents, raw disks |
//! | [`stream`] | from changes to sealed points |
//! | [`btrfs`] | btrfs send streams as changes |
//! | [`lifecycle`] | snapshots that backups are made of |
//! | `old`, `run` | the parent's tree; what all threads share |
//! | [`report`], [`sink`] | findings and progress; where chunks go |

pub mod backup;
pub mod btrfs;
pub mod change;
pub mod chunker;
pub mod exclude;
mod file;
mod file_systems;
pub mod image;
mod large;
pub mod lifecycle;
mod links;
mod listing;
mod old;
mod other_names;
mod packer;
pub mod report;
mod roots;
mod run;
mod scan;
mod seen;
pub mod sink;
mod small;
mod source;
pub mod stream;
#[cfg(test)]
mod tests;
mod walker;
mod workers;
pub mod zero;

pub use backup::{BackupOptions, Outcome, backup};
pub use exclude::{ExcludeOptions, Excludes};
pub use report::{Finding, Monitor, News, Progress, Report, Severity};
