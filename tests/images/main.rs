//! `relict ingest image` and `relict ingest rbd` with the programs that disks come from: QEMU's servers and tools, nbdkit,
//! thin_delta, sfdisk, mkswap; and with real RBD streams of the corpus.
//!
//! | module | holds |
//! |---|---|
//! | `nbd` | the client against real servers |
//! | `law` | by differences or whole: the same tree |
//! | `fallback` | what is not believed, and what then happens |
//! | `damage` | a repository that has rotted below a disk |
//! | `rbd` | chains of RBD streams, and hostile ones |
//! | `tools` | the programs, and disks to give them |
//!
//! A program that is missing makes its tests say SKIPPED.

mod damage;
mod fallback;
mod law;
mod nbd;
mod rbd;
#[path = "../support/rig.rs"]
mod rig;
#[path = "../survive/shim.rs"]
mod shim;
mod tools;
