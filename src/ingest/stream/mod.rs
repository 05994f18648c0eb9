//! From changes to sealed restore points: `apply` (SPEC.md section 14).
//!
//! A decoder says what changed; a [`Session`] holds the half-applied state, cuts content, and seals each
//! state of the stream when it is whole. Nothing of a state can be seen before.
//!
//! | module | holds |
//! |---|---|
//! | `input` | a decoder's window on the bytes |
//! | `apply` | what each change does |
//! | `staged`, `path` | names and attributes of the half-applied state |
//! | `content`, `rows`, `spool` | one file's content in it |
//! | `append`, `recut` | content to chunks: in order, and where something changed |
//! | `pipeline` | the threads that hash and store |
//! | `damage` | stored content that cannot be read any more, beside a change |
//! | `fold` | from all that to a tree |
//! | [`states`] | finding parents again |
//! | [`source`], `store` | seams: content that the stream only points at; the repository |

mod append;
mod apply;
mod content;
mod damage;
mod fold;
mod input;
mod path;
mod pipeline;
mod recut;
mod rows;
pub mod source;
mod spool;
mod staged;
pub mod states;
mod store;
#[cfg(test)]
mod tests;

use super::backup::{DEFAULT_MEMORY_BYTES, Outcome, counts_since, new_point_id, now};
use super::change::{Change, Decode};
use super::chunker::Chunker;
use super::report::{Monitor, Report};
use crate::store::{Writer, WriterStats};
use crate::{Error, ErrorKind, Result};
use apply::{Apply, Around, State};
use pipeline::{Pipeline, Workers};
use repo_format::{Counts, NO_ACLS_TAG, PointId, PointRecord, SourceKind, Time};
pub use source::ReadSource;
use states::id_text;
pub use states::{StateInfo, States};
use std::io::Read;
use std::sync::atomic::AtomicBool;

/// New extents of a file, or of several, that are kept in memory before they move to a tree.
const MAX_EXTENTS: usize = 100_000;

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
    /// Fields of the record that are the producer's own (SPEC.md section 8): tags from 0x8010, ascending.
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
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(2, usize::from),
        threads => threads,
    };
    let memory_bytes = match options.memory_bytes {
        0 => DEFAULT_MEMORY_BYTES,
        bytes => bytes,
    };
    let chunker = Chunker::new(writer.repository().header().chunk_bytes);
    let (workers, ends) = Workers::new(writer, monitor, chunker, threads, memory_bytes / 4);
    let done = std::thread::scope(|scope| {
        for worker in 0..threads {
            let (workers, thread) = (&workers, std::thread::Builder::new().name("relict-ingest".into()));
            thread.spawn_scoped(scope, move || workers.work(worker)).map_err(|e| Error::io("starting a thread", e))?;
        }
        // A sixth: with the database's and the tree's caches beside it, a million files stay within the bound.
        let around = Around { store: writer, monitor, stop, limit_bytes: memory_bytes / 6, max_extents: MAX_EXTENTS };
        let mut session = Session {
            writer,
            source: source.map(|source| source as &mut dyn ReadSource),
            options,
            states: States::new(writer.repository(), options)?,
            pipeline: Pipeline::new(&workers, ends),
            around,
            current: None,
            next_content: 1,
            notes: Vec::new(),
            sealed: Vec::new(),
        };
        feed(&mut session).and_then(|()| session.finish()).map_err(|e| session.and_sealed(e))?;
        Ok(session.sealed)
    });
    if done.is_err() {
        // What is stored so far is made findable; the first error is the one to tell.
        let _ = writer.checkpoint();
    }
    done
}

/// One stream being applied.
pub struct Session<'s> {
    writer: &'s Writer,
    source: Option<&'s mut (dyn ReadSource + 's)>,
    options: &'s StreamOptions,
    states: States,
    around: Around<'s>,
    pipeline: Pipeline<'s>,
    current: Option<Current<'s>>,
    next_content: u64,
    /// For the next record.
    notes: Vec<Vec<u8>>,
    sealed: Vec<Outcome>,
}

/// The state that is being made.
struct Current<'s> {
    state: State<'s>,
    info: StateInfo,
    parent: Option<PointId>,
    before: WriterStats,
}

impl Session<'_> {
    /// Applies one change. After an error the session is over.
    ///
    /// # Errors
    /// As [`run`]; the caller adds where in the stream it was.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<()> {
        match *change {
            Change::Begin { id, parent, name, generation } => {
                self.seal()?;
                self.begin(id, parent, name, generation)
            }
            Change::Note { text } => {
                self.notes.push(text.to_vec());
                Ok(())
            }
            Change::End if self.current.is_some() => self.seal(),
            _ => {
                let Some(current) = &mut self.current else {
                    return Err(Error::new(
                        ErrorKind::BadInput,
                        "there is no state that this belongs to: none has begun",
                    ));
                };
                let mut apply = Apply {
                    around: &self.around,
                    pipeline: &mut self.pipeline,
                    source: self.source.as_deref_mut().map(|source| source as &mut dyn ReadSource),
                    states: &self.states,
                    state: &mut current.state,
                };
                apply.change(change)
            }
        }
    }

    /// The states that the repository has, as far as this stream may name them.
    #[must_use]
    pub const fn states(&self) -> &States {
        &self.states
    }

    fn begin(&mut self, id: &[u8], parent: Option<&[u8]>, name: &[u8], generation: u64) -> Result<()> {
        if id.is_empty() {
            return Err(Error::new(ErrorKind::BadInput, "a state begins that has no id"));
        }
        let parent_point = parent.map(|parent| self.states.need(parent, "the parent state")).transpose()?;
        let counts = parent_point.map_or_else(Counts::default, |point| Counts {
            files: point.counts.files,
            dirs: point.counts.dirs,
            bytes: point.counts.bytes,
            ..Counts::default()
        });
        let (root, next_ino) = parent_point.map_or((None, 0), |point| (Some(point.root), point.next_ino));
        let mut state = State::new(&self.around, id, root, next_ino, self.next_content, counts);
        state.acls = parent_point.is_some_and(|parent| !parent.has_no_acls());
        let info = StateInfo { id: id.to_vec(), parent: parent.map(<[u8]>::to_vec), generation, name: name.to_vec() };
        let parent = parent_point.map(|point| point.id);
        self.current = Some(Current { state, info, parent, before: self.writer.stats() });
        Ok(())
    }

    /// Makes the state visible that is being made, if one is.
    fn seal(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let mut apply = Apply {
            around: &self.around,
            pipeline: &mut self.pipeline,
            source: self.source.as_deref_mut().map(|source| source as &mut dyn ReadSource),
            states: &self.states,
            state: &mut current.state,
        };
        let (root, next_ino) = apply.finish()?;
        let damage = apply.damage()?;
        self.next_content = current.state.next_content();
        let options = self.options;
        let mut notes = options.notes.clone();
        notes.append(&mut self.notes);
        notes.extend(damage::notes_of(&damage));
        let mut report = Report::default();
        for finding in damage {
            self.around.monitor.on_finding(&finding);
            report.add(finding);
        }
        let no_acls = if current.state.acls { Vec::new() } else { vec![(NO_ACLS_TAG, Vec::new())] };
        let point = PointRecord {
            repo: self.writer.repository().header().repo,
            id: new_point_id()?,
            time: options.time,
            sealed: now(),
            root,
            next_ino,
            kind: options.kind,
            host: options.host.clone(),
            source: options.source.clone(),
            parent: current.parent,
            counts: Counts {
                errors: report.errors,
                ..counts_since(current.state.counts, current.before, self.writer.stats())
            },
            paths: Vec::new(),
            tags: options.tags.clone(),
            file_systems: Vec::new(),
            notes,
            program: concat!("relict ", env!("CARGO_PKG_VERSION")).into(),
            extra: [current.info.to_fields(), options.extra.clone(), no_acls].concat(),
        };
        self.writer.seal(&point)?;
        self.states.add(&point);
        self.sealed.push(Outcome { point, report });
        Ok(())
    }

    /// The feed has ended.
    fn finish(&self) -> Result<()> {
        match &self.current {
            None => Ok(()),
            Some(current) => {
                let what = format!("the stream ends before state {} is complete", id_text(&current.info.id));
                Err(Error::new(ErrorKind::BadInput, what)
                    .advise("make the stream again; nothing of this state was kept"))
            }
        }
    }

    /// Adds to an error what came of the stream before.
    fn and_sealed(&self, error: Error) -> Error {
        match self.sealed.len() {
            0 => error,
            1 => error.context("one restore point was made; then"),
            points => error.context(format_args!("{points} restore points were made; then")),
        }
    }
}
