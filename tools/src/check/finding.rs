//! A finding: one thing that a check saw, as data: what is lost, which points feel it, whether it can be mended.

use repo_format::{ChunkId, PackageId};
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
    /// A file lost content, and a repair has said so.
    KnownLoss,
    /// A segment was wrong when it was read first and right when it was read again.
    Unstable,
    /// A file's content changed at its source although its times did not.
    SourceRot,
    /// A package that nothing refers to.
    Stray,
}

/// What a finding means for whoever runs the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The repository is not as it should be: exit code 1.
    Problem,
    /// Worth knowing, and nothing stored is wrong: exit code 3.
    Warning,
}

impl Severity {
    /// The word in `--json`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Problem => "problem",
            Self::Warning => "warning",
        }
    }
}

/// Whether a finding can be mended, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// Nothing is broken.
    Unneeded,
    /// From what the repository itself still holds.
    Itself,
    /// Only from another copy of the data: a second repository, or for content the source.
    Elsewhere,
}

impl Mend {
    /// The word in `--json`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unneeded => "unneeded",
            Self::Itself => "itself",
            Self::Elsewhere => "elsewhere",
        }
    }
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
            Self::KnownLoss => "known_loss",
            Self::Unstable => "unstable",
            Self::SourceRot => "source_rot",
            Self::Stray => "stray",
        }
    }

    /// Whether this is wrong or only worth knowing.
    pub const fn severity(self) -> Severity {
        match self {
            Self::KnownLoss | Self::Unstable | Self::SourceRot | Self::Stray => Severity::Warning,
            _ => Severity::Problem,
        }
    }
}

/// Where a finding stands, in packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The package.
    pub package: PackageId,
    /// Byte offset of the segment; None for the package as a whole.
    pub offset: Option<u64>,
}

/// A file of a restore point that feels a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affected {
    /// The point, for people: id, time, host, source.
    pub point: String,
    /// The path in it, escaped.
    pub path: String,
}

/// One thing that a check saw.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// What exactly, and where, for people.
    pub what: String,
    /// Where, for programs.
    pub place: Option<Place>,
    /// Chunks that cannot be read because of it.
    pub chunks: Vec<ChunkId>,
    /// Of these, how many stand whole in another place of the repository.
    pub spare: usize,
    /// Files that feel it. Filled at the end of the check.
    pub affected: Vec<Affected>,
}

impl Finding {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), place: None, chunks: Vec::new(), spare: 0, affected: Vec::new() }
    }

    pub fn at(mut self, package: PackageId, offset: Option<u64>) -> Self {
        self.place = Some(Place { package, offset });
        self
    }

    pub fn losing(mut self, chunks: Vec<ChunkId>) -> Self {
        self.chunks = chunks;
        self
    }

    /// Whether it can be mended, and from what.
    pub fn mend(&self) -> Mend {
        match self.kind {
            Kind::Unstable | Kind::SourceRot | Kind::Stray => Mend::Unneeded,
            // Nothing that is stored was lost with it.
            Kind::Index | Kind::Package | Kind::Segment | Kind::PackageMissing if self.spare == self.chunks.len() => {
                Mend::Itself
            }
            _ => Mend::Elsewhere,
        }
    }

    /// What can be done about it.
    pub fn remedy(&self) -> &'static str {
        match (self.kind, self.mend()) {
            (Kind::KeySlot, _) => {
                "other key slots still open the repository: 'relict-maint keys add' makes a new slot, then remove this file"
            }
            (Kind::Index, Mend::Itself) => "no data is lost: 'relict-maint repair' makes a new index from the packages",
            (Kind::KnownLoss, _) => {
                "these files give an error where content is lost; 'relict-maint repair --from REPO' or '--from-source PATH' may still bring it back"
            }
            (Kind::Stray, _) => "harmless: it takes room and nothing else",
            (Kind::Unstable, _) => {
                "the stored bytes are right, the machine that read them is not: test its memory, cables and controller"
            }
            (Kind::SourceRot, _) => {
                "compare the file with the older restore point: its content changed without a write that the file system saw"
            }
            (Kind::Package | Kind::Segment | Kind::PackageMissing, Mend::Itself) => {
                "nothing is lost: 'relict-maint repair' stores what is in it again and puts the package aside"
            }
            (Kind::Point | Kind::Node | Kind::Tree, _) => {
                "other restore points are not affected; 'relict-maint repair --from REPO' takes it from a copy of the \
                 repository, 'repair' alone keeps what is left of the point"
            }
            _ => {
                "'relict-maint repair --from REPO' or '--from-source PATH' brings it back from a second repository or from \
                 the source; all files not named here are intact"
            }
        }
    }

    /// The finding as a line of JSON.
    pub fn json(&self) -> Value {
        let affected: Vec<Value> = self.affected.iter().map(|a| json!({"point": a.point, "path": a.path})).collect();
        json!({
            "message_type": "finding",
            "severity": self.kind.severity().word(),
            "kind": self.kind.word(),
            "what": self.what,
            "package": self.place.map(|p| p.package.to_string()),
            "offset": self.place.and_then(|p| p.offset),
            "chunks": self.chunks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "affected": affected,
            "mend": self.mend().word(),
            "remedy": self.remedy(),
        })
    }
}
