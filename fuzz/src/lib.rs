//! relict's decoders alone, from the sources in `../src`: they do no I/O, so they build without the store, and no
//! RocksDB has to be compiled for the sanitizers.
#![expect(dead_code, reason = "what the decoders do not use of the modules they need")]
#![allow(unused_imports, clippy::all, reason = "linted where they belong")]

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/os/mod.rs"]
pub mod os;

pub use error::{Error, ErrorKind, Result};

extern crate self as decoders;

pub mod checks;

/// What people type for points and times, and what may be printed.
pub mod catalog {
    #[path = "../../../src/catalog/points.rs"]
    pub mod points;
    #[path = "../../../src/catalog/retention.rs"]
    pub mod retention;
    /// As in the room itself, whose trees are no decoder's.
    pub mod thin {
        use super::retention::Age;

        /// Which contents of a file stay.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct VersionRule {
            /// The last so many.
            pub most: Option<u32>,
            /// How long those of a deleted file stay.
            pub deleted_for: Option<Age>,
        }
    }
}

/// Segments and packages, without the index over them.
pub mod store {
    #[path = "../../../src/store/buffers.rs"]
    mod buffers;
    #[path = "../../../src/store/keys.rs"]
    mod keys;
    #[path = "../../../src/store/memory.rs"]
    mod memory;
    #[path = "../../../src/store/package_store.rs"]
    mod package_store;
    #[path = "../../../src/store/scan.rs"]
    mod scan;
    #[path = "../../../src/store/segment.rs"]
    mod segment;

    pub use keys::Keys;
    pub use memory::MemoryStore;
    pub use package_store::PackageStore;
    pub use scan::{read_segment, scan_package};
    pub use segment::Segment;
}

/// Names in the mount.
pub mod view {
    #[path = "../../../src/view/names.rs"]
    pub mod names;
}

/// The rooms of ingest that decoders need.
pub mod ingest {
    #[path = "../../../src/ingest/btrfs/mod.rs"]
    pub mod btrfs;
    #[path = "../../../src/ingest/change.rs"]
    pub mod change;
    #[path = "../../../src/ingest/exclude.rs"]
    pub mod exclude;
    /// The seam that `--no-data` streams read through.
    pub mod stream {
        #[path = "../../../../src/ingest/stream/source.rs"]
        mod source;
        pub use source::ReadSource;
    }
    /// Disks without the run that puts them into a repository.
    pub mod image {
        #[path = "../../../../src/ingest/image/disk.rs"]
        pub mod disk;
        #[path = "../../../../src/ingest/image/extents/mod.rs"]
        pub mod extents;
        #[path = "../../../../src/ingest/image/nbd/mod.rs"]
        pub mod nbd;
        #[path = "../../../../src/ingest/image/rbd/mod.rs"]
        pub mod rbd;
        #[path = "../../../../src/ingest/image/source.rs"]
        pub mod source;
        #[path = "../../../../src/ingest/image/swap.rs"]
        pub mod swap;

        /// As in the room itself.
        fn bad(what: impl Into<String>) -> crate::Error {
            crate::Error::new(crate::ErrorKind::BadInput, what)
        }
    }
}
