//! States that restore points were made of, and finding them again (SPEC.md section 8, tags from 0x8001).

use super::apply::FindState;
use super::{Scope, StreamOptions};
use crate::catalog::points::{printable, time_name};
use crate::store::Repository;
use crate::{Error, ErrorKind, Result};
use repo_format::{ChunkId, PointRecord};

/// Tag of the state's id.
pub const TAG_STATE: u16 = 0x8001;
/// Tag of the id of the state it was made from.
pub const TAG_PARENT: u16 = 0x8002;
/// Tag of the state's generation, u64: of a btrfs snapshot, its transaction id.
pub const TAG_GENERATION: u16 = 0x8003;
/// Tag of the source's name for the state.
pub const TAG_NAME: u16 = 0x8004;
/// Most states that an error lists.
const LISTED: usize = 12;

/// What a point's record says of the state it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateInfo {
    /// Names the state in its scope.
    pub id: Vec<u8>,
    /// The state it was made from, if it was made from one.
    pub parent: Option<Vec<u8>>,
    /// As the source counts.
    pub generation: u64,
    /// The source's name for it.
    pub name: Vec<u8>,
}

impl StateInfo {
    /// What `point` says, if it was made by a stream.
    #[must_use]
    pub fn of(point: &PointRecord) -> Option<Self> {
        let field = |tag: u16| point.extra.iter().find(|(t, _)| *t == tag).map(|(_, bytes)| bytes.clone());
        let generation = field(TAG_GENERATION).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        Some(Self {
            id: field(TAG_STATE)?,
            parent: field(TAG_PARENT),
            generation,
            name: field(TAG_NAME).unwrap_or_default(),
        })
    }

    /// The fields of a point's record.
    #[must_use]
    pub fn to_fields(&self) -> Vec<(u16, Vec<u8>)> {
        let mut fields = vec![(TAG_STATE, self.id.clone())];
        fields.extend(self.parent.clone().map(|parent| (TAG_PARENT, parent)));
        fields.push((TAG_GENERATION, self.generation.to_le_bytes().to_vec()));
        fields.push((TAG_NAME, self.name.clone()));
        fields
    }
}

/// The states that a stream may name.
pub struct States {
    /// Oldest first; those of the stream's own chain last.
    known: Vec<(StateInfo, PointRecord)>,
}

impl States {
    /// All states of the repository that `options` admit.
    ///
    /// # Errors
    /// Those of reading the catalogue.
    pub fn new(repository: &Repository, options: &StreamOptions) -> Result<Self> {
        Ok(Self::of(repository.point_records()?, options))
    }

    fn of(points: Vec<PointRecord>, options: &StreamOptions) -> Self {
        let is_own = |point: &PointRecord| point.host == options.host && point.source == options.source;
        let admitted = points.into_iter().filter(|point| options.scope == Scope::Repository || is_own(point));
        let mut known: Vec<_> = admitted.filter_map(|point| Some((StateInfo::of(&point)?, point))).collect();
        known.sort_by_key(|(_, point)| (is_own(point), point.time, point.sealed, point.id));
        Self { known }
    }

    /// Adds a state that was sealed just now.
    pub fn add(&mut self, point: &PointRecord) {
        self.known.extend(StateInfo::of(point).map(|state| (state, point.clone())));
    }

    /// The point of the state with this id: the newest of the stream's own chain, else of another.
    #[must_use]
    pub fn find(&self, id: &[u8]) -> Option<&PointRecord> {
        self.known.iter().rev().find(|(state, _)| state.id == id).map(|(_, point)| point)
    }

    /// The newest state of the stream's own chain (with [`Scope::Chain`]).
    #[must_use]
    pub fn newest(&self) -> Option<(&StateInfo, &PointRecord)> {
        self.known.last().map(|(state, point)| (state, point))
    }

    /// As [`States::find`], for a state that `what` needs.
    ///
    /// # Errors
    /// `NotFound`, with the states that there are.
    pub fn need(&self, id: &[u8], what: &str) -> Result<&PointRecord> {
        self.find(id).ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, format!("{what} {} is not in the repository", id_text(id)));
            if self.known.is_empty() {
                return error.advise("no state of this source is: ingest a full stream first");
            }
            let one = |(state, point): &(StateInfo, PointRecord)| {
                format!(
                    "  {}  {}  {} of {}:{}",
                    id_text(&state.id),
                    time_name(point.time),
                    printable(&state.name),
                    printable(&point.host),
                    printable(&point.source)
                )
            };
            let mut lines: Vec<String> = self.known.iter().rev().take(LISTED).map(one).collect();
            let more = self.known.len().saturating_sub(LISTED);
            lines.extend((more > 0).then(|| format!("  and {more} older ones")));
            error.advise(format!(
                "ingest its stream first, or make a stream from a state that is there:\n{}",
                lines.join("\n")
            ))
        })
    }
}

impl FindState for States {
    fn root_of(&self, id: &[u8]) -> Result<ChunkId> {
        self.need(id, "the state that is cloned from,").map(|point| point.root)
    }
}

/// A state's id for people: 16 bytes as a UUID, text as it is.
#[must_use]
pub fn id_text(id: &[u8]) -> String {
    let is_text = !id.is_empty() && id.iter().all(|byte| (b' '..=b'~').contains(byte));
    if id.len() != 16 || is_text {
        return printable(id);
    }
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let parts = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| hex(id.get(range).unwrap_or_default()));
    parts.join("-")
}
