//! The chunk store: chunks in segments, segments in packages, and a database that knows where each chunk is.
//!
//! Reading goes through [`Repository`], writing through [`Writer`]; both stand on [`PackageStore`], which has
//! three implementations, and on [`Index`], which can always be rebuilt from packages.

mod buffers;
mod create;
mod files;
mod free;
mod header;
mod health;
mod index;
mod keys;
mod lease;
mod logs;
mod memory;
mod package_store;
mod patience;
mod pins;
mod present;
mod rebuild;
mod recover;
mod repair;
mod repository;
pub mod reserve;
mod rocks;
mod scan;
mod scratch;
mod segment;
mod slots;
mod states;
mod writer;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

pub use create::{CreateOptions, create};
pub use files::FileStore;
pub use free::{Dead, Freed, Range, RecordPlace, announce, dead_segments};
pub use header::{RecoveredHeader, recover_header, replace_header};
pub use health::{Health, LastCheck, record_health};
pub use index::{Index, Location, PackageInfo};
pub use keys::{DEFAULT_KDF, Keys, make_slot, open_slot, random as random_bytes, slot_name};
pub use lease::Lease;
pub use memory::MemoryStore;
pub use package_store::PackageStore;
pub use patience::{get_or_load, may_wait, without_waiting, would_have_waited};
pub use pins::{Pin, PinHolder, pin_holders};
pub use rebuild::{Rebuilt, rebuild};
pub use repair::{drop_point, quarantine};
pub use repository::{Chunk, NodeRef, OpenOptions, Repository, Unlock, key_slots, read_header};
pub use rocks::RocksStore;
pub use scan::{FoundSegment, ScannedPackage, read_segment, scan_package};
pub use segment::{Compression, Search, Segment};
pub use slots::{Imported, Keyring, SlotFile, Unlocked, list_slots};
pub use states::States;
pub use writer::{NodePacker, PACKAGE_BYTES, PACKAGE_CHUNKS, Writer, WriterStats};
