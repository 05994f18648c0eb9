//! `Change`: the one language in which every stream says how a source became another (SPEC.md section 14).
//!
//! A decoder turns bytes into changes and does no I/O; `apply` turns changes into tree edits. A new source
//! is a decoder, and rows in a test table.

use crate::Result;
use repo_format::{Device, FileKind, Time};

/// Names one state of a source, wherever it is mentioned: a btrfs subvolume's uuid, an RBD snapshot's name.
pub type StateId<'a> = &'a [u8];

/// One step. Paths are bytes, relative to the source's root, which is the empty path; a decoder passes them
/// on as it finds them, and `apply` refuses those that are not plain. Lengths and offsets are bytes.
/// Nothing is implied: no step changes a time, a mode or an owner that it does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are what POSIX calls by these names")]
pub enum Change<'a> {
    /// A state begins: from nothing, or from the one named `parent`. Comes first, and again for the next state
    /// where a stream holds several; that ends the state before as [`Change::End`] does.
    Begin { id: StateId<'a>, parent: Option<StateId<'a>>, name: &'a [u8], generation: u64 },
    /// A new inode under a name that is free. `ino` is the source's number of it.
    Create { path: &'a [u8], kind: FileKind, ino: Option<u64>, device: Option<Device> },
    /// Another name of an inode that is no directory.
    Link { path: &'a [u8], existing: &'a [u8] },
    /// A name goes away; of what is no directory.
    Unlink { path: &'a [u8] },
    /// An empty directory goes away.
    RemoveDir { path: &'a [u8] },
    /// A name moves to a free one.
    Rename { from: &'a [u8], to: &'a [u8] },
    /// Attributes are set as given; None leaves one as it is.
    SetAttr { path: &'a [u8], set: SetAttr },
    /// An extended attribute gets a value.
    SetXattr { path: &'a [u8], name: &'a [u8], value: &'a [u8] },
    /// An extended attribute goes away, if it is there.
    RemoveXattr { path: &'a [u8], name: &'a [u8] },
    /// Where a symbolic link leads.
    SetTarget { path: &'a [u8], target: &'a [u8] },
    /// Content. A file that ends before `offset` grows by a hole.
    Write { path: &'a [u8], offset: u64, data: &'a [u8] },
    /// A hole. Does not make the file longer unless `extend`; then up to its end, also when `len` is 0.
    Zero { path: &'a [u8], offset: u64, len: u64, extend: bool },
    /// Content of another file, or of another place of the same: of the current half-applied state (`state` is
    /// None or this state's own id), or of another state that the repository has.
    Clone { path: &'a [u8], offset: u64, state: Option<StateId<'a>>, from: &'a [u8], from_offset: u64, len: u64 },
    /// The file's size; what is beyond goes away, what is new is a hole.
    Truncate { path: &'a [u8], size: u64 },
    /// This range is not what it was and the stream does not say what it is: it must be read from the source.
    Changed { path: &'a [u8], offset: u64, len: u64 },
    /// Something the restore point's record should say: a fallback and why, content that was left out.
    Note { text: &'a [u8] },
    /// The stream is whole. Without it nothing of the last state is made visible.
    End,
}

/// Attributes to set; None leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits with setuid, setgid and sticky, no type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Modification time.
    pub mtime: Option<Time>,
    /// Change time of the inode.
    pub ctime: Option<Time>,
    /// Birth time.
    pub btime: Option<Time>,
    /// Inode flags, as chattr(1) sets them.
    pub flags: Option<u32>,
}

/// What a decoder found at the front of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// The input must hold at least so many bytes before more can be said. Never more than
    /// [`Decode::max_input_bytes`].
    More(usize),
    /// So many bytes are used up, and meant this. `None` for what means nothing (a header, a comment).
    Change(usize, Option<Change<'a>>),
}

/// Turns the bytes of one stream into changes: no I/O, no clock, and no memory but what its bytes fill.
///
/// An error names what is wrong and what it was part of (the command, the record); the caller adds where in
/// the stream it stands, and drops everything since [`Change::Begin`].
pub trait Decode {
    /// Takes one step from the front of `input`, the stream's bytes from where the last step ended. `last` says
    /// that no bytes follow these: then `More` is a stream that was cut, which the caller reports, and an
    /// empty `input` where the stream may end is not asked about.
    ///
    /// # Errors
    /// For bytes that are not valid here. The stream is over then.
    fn next<'a>(&'a mut self, input: &'a [u8], last: bool) -> Result<Step<'a>>;

    /// Whether the stream may end here.
    fn may_end(&self) -> bool;

    /// The most input a step ever needs, in bytes.
    fn max_input_bytes(&self) -> usize;

    /// What the decoder is in the middle of, for error messages: `"WRITE"`, `"record s"`.
    fn doing(&self) -> &str;
}
