//! `relict ingest btrfs` and `relict backup --snapshot` with real streams: those of the corpus, and those that a btrfs on
//! a loop device makes while the test runs.
//!
//! | module | holds |
//! |---|---|
//! | `corpus` | every chain gives the tree of its manifest; hostile streams; the law |
//! | `live` | random work on a real btrfs, `send`, ingest, mount, compare |
//! | `lifecycle` | `backup --snapshot`: first run, later runs, lost parents, failures, kills |
//! | `damage` | increments on a repository that has rotted |
//! | `expected` | trees as the corpus writes them down |
//! | `lab` | a btrfs to work on, and what happens to it |
//!
//! Where there is no btrfs or no corpus the tests say SKIPPED. A small corpus is in `tests/data/btrfs`, and always runs.

mod corpus;
mod damage;
mod expected;
mod lab;
mod lifecycle;
mod live;
#[path = "../support/rig.rs"]
mod rig;
#[path = "../survive/shim.rs"]
mod shim;
#[path = "../support/walker.rs"]
mod walker;
