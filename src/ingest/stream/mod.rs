//! From changes to sealed restore points: `apply` (SPEC.md section 14).
//!
//! A decoder says what changed; a [`Session`] holds the half-applied state, cuts content, and seals each
//! state of the stream when it is whole. Nothing of a state can be seen before.

mod input;
pub mod source;

use super::backup::Outcome;
use super::change::{Change, Decode};
use super::report::Monitor;
use crate::Result;
use crate::store::Writer;
use repo_format::{SourceKind, Time};
pub use source::ReadSource;
use std::io::Read;
use std::sync::atomic::AtomicBool;

/// Where the parent of a state, and the states that clones come from, are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// In the whole repository: state ids are unique in the world (btrfs uuids).
    #[default]
    Repository,
    /// Among the points of the same host and source: state ids are names (RBD snapshots, image generations).
    Chain,
}

/// What the restore points of a stream are called, and how much may be used to make them.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Host name for the point records.
    pub host: Vec<u8>,
    /// The source's name on that host.
    pub source: Vec<u8>,
    /// Tags.
    pub tags: Vec<Vec<u8>>,
    /// What the record says beside what the stream itself gives rise to: fallbacks taken, and why.
    pub notes: Vec<Vec<u8>>,
    /// Fields of the record that are the producer's own (SPEC.md section 8), ascending by tag.
    pub extra: Vec<(u16, Vec<u8>)>,
    /// The producer.
    pub kind: SourceKind,
    /// Where parents are looked for.
    pub scope: Scope,
    /// When the state was taken; the points' name.
    pub time: Time,
    /// Threads that hash and compress; 0 for one a core.
    pub threads: usize,
    /// Bound of the memory, in bytes; 0 for [`super::backup::DEFAULT_MEMORY_BYTES`].
    pub memory_bytes: usize,
}

/// Ingests the states of one stream and seals a restore point for each, in their order.
///
/// `source` is read where the stream says `Changed`; without one such a change is an error.
///
/// # Errors
/// `BadInput` with the byte offset and the command for what the stream must not hold; `NotFound` for a parent
/// or a clone's source that the repository does not have; `Interrupted` once `stop` is set; those of the repository
/// and of `input`. States that the stream completed before the error stay sealed, and the error says how many
/// there are; nothing of a later one is visible.
pub fn run<'s>(
    writer: &'s Writer,
    decoder: &mut dyn Decode,
    input: &mut dyn Read,
    source: Option<&'s mut (dyn ReadSource + 's)>,
    options: &'s StreamOptions,
    monitor: &'s dyn Monitor,
    stop: &'s AtomicBool,
) -> Result<Vec<Outcome>> {
    ingest(writer, source, options, monitor, stop, &mut |session| input::drive(session, decoder, input))
}

/// As [`run`] for a producer that is no stream of bytes: `feed` gives the changes by [`Session::apply`], from
/// `Begin` to `End`.
///
/// # Errors
/// As [`run`], and those of `feed`.
pub fn ingest<'s>(
    writer: &'s Writer,
    source: Option<&'s mut (dyn ReadSource + 's)>,
    options: &'s StreamOptions,
    monitor: &'s dyn Monitor,
    stop: &'s AtomicBool,
    feed: &mut dyn FnMut(&mut Session<'_>) -> Result<()>,
) -> Result<Vec<Outcome>> {
    let mut session = Session { writer, source, options, monitor, stop, sealed: Vec::new() };
    feed(&mut session)?;
    Ok(session.sealed)
}

/// One stream being applied.
pub struct Session<'s> {
    writer: &'s Writer,
    source: Option<&'s mut (dyn ReadSource + 's)>,
    options: &'s StreamOptions,
    monitor: &'s dyn Monitor,
    stop: &'s AtomicBool,
    sealed: Vec<Outcome>,
}

impl Session<'_> {
    /// Applies one change. After an error the session is over.
    ///
    /// # Errors
    /// As [`run`]; the caller adds where in the stream it was.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<()> {
        let _ = (change, self.writer, &self.source, self.options, self.monitor, self.stop);
        Err(crate::Error::new(crate::ErrorKind::BadInput, "changes cannot be applied yet"))
    }
}
