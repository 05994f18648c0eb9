//! A finding: one thing that a check saw, as data.

use repo_format::ChunkId;
use serde_json::{Value, json};

/// Files named for one finding before the rest are only counted; `--json` names all.
pub const AFFECTED_SHOWN: usize = 20;

/// What kind of thing was found. The words are part of the `--json` interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A key slot cannot be read.
    KeySlot,
    /// A package that the index lists is not there.
    PackageMissing,
    /// A package's header, footer, length or name is wrong.
    Package,
    /// A segment's header or content is wrong.
    Segment,
    /// A chunk's bytes do not have its id.
    Chunk,
    /// The index and the packages disagree.
    Index,
    /// A restore point record is wrong.
    Point,
    /// A node of a restore point's tree cannot be read.
    Node,
    /// A restore point's tree contradicts itself.
    Tree,
    /// A file needs a chunk that is not stored.
    ChunkMissing,
    /// A package that nothing refers to.
    Stray,
}

impl Kind {
    /// The word in `--json`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::KeySlot => "key_slot",
            Self::PackageMissing => "package_missing",
            Self::Package => "package",
            Self::Segment => "segment",
            Self::Chunk => "chunk",
            Self::Index => "index",
            Self::Point => "point",
            Self::Node => "node",
            Self::Tree => "tree",
            Self::ChunkMissing => "chunk_missing",
            Self::Stray => "stray",
        }
    }

    /// What can be done about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::KeySlot => "other key slots still open the repository; restore this file from a copy",
            Self::Index => "no data is lost: 'relict-maint rebuild' makes a new index from the packages",
            Self::Stray => "harmless: it takes room and nothing else",
            Self::Package | Self::Segment | Self::Chunk | Self::ChunkMissing | Self::PackageMissing => {
                "restore the package from a copy of the repository; all files not named here are intact"
            }
            Self::Point | Self::Node | Self::Tree => {
                "other restore points are not affected; restore the package from a copy of the repository"
            }
        }
    }
}

/// One thing that a check saw.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// What exactly, and where.
    pub what: String,
    /// Chunks that cannot be read because of it.
    pub chunks: Vec<ChunkId>,
    /// Files that feel it: restore point and path, for people. Filled at the end of the check.
    pub affected: Vec<(String, String)>,
}

impl Finding {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), chunks: Vec::new(), affected: Vec::new() }
    }

    pub fn losing(mut self, chunks: Vec<ChunkId>) -> Self {
        self.chunks = chunks;
        self
    }

    /// The finding as a line of JSON.
    pub fn json(&self) -> Value {
        let affected: Vec<Value> = self.affected.iter().map(|(point, path)| json!({"point": point, "path": path})).collect();
        json!({
            "message_type": "finding",
            "kind": self.kind.word(),
            "what": self.what,
            "chunks": self.chunks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "affected": affected,
            "remedy": self.kind.remedy(),
        })
    }
}
