//! NBD's bytes: what a client sends, and what a server's answers mean. No sockets, no state.
//!
//! All numbers are big endian. Every length that a server sends has a bound here, before anything is made
//! or read for it.

use crate::Result;
use crate::catalog::points::printable;
use crate::ingest::image::bad;
use std::io::Read;

/// `NBDMAGIC`, the first bytes of every server.
const GREETING: &[u8; 8] = b"NBDMAGIC";
/// `IHAVEOPT`: a server of today's handshake, and the front of every option.
const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
/// In place of it, a server of the handshake from before 2007.
const OLD_STYLE: &[u8; 8] = b"\x00\x00\x42\x02\x81\x86\x12\x53";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Fixed newstyle, which this client needs, and no 124 zeros after the handshake.
const FLAGS: u16 = 1 | 2;
/// Longest answer to an option: a name of 4096 bytes and a description.
const MAX_OPTION_REPLY_BYTES: u32 = 16 * 1024;
/// Longest message of an error.
const MAX_MESSAGE_BYTES: u32 = 4096;
/// Most answer to a question for block status: a million extents.
const MAX_STATUS_BYTES: u32 = 8 << 20;

/// What is negotiated before the transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Opt {
    Abort = 2,
    List = 3,
    Go = 7,
    StructuredReply = 8,
    ListMetaContext = 9,
    SetMetaContext = 10,
}

/// A server's answer to an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OptionReply {
    /// Done, nothing more follows.
    Ack,
    /// An export that it has.
    Server(Vec<u8>),
    /// Something about the export.
    Info(Info),
    /// A context that it has, and the number that stands for it.
    Context(u32, Vec<u8>),
    /// It does not do this: number of the error, and what it says.
    Refused(u32, String),
}

/// What a server says about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Info {
    /// Size in bytes, and transmission flags.
    Export(u64, u16),
    /// Smallest and largest request in bytes.
    BlockSize(u32, u32),
    /// Anything else.
    Other,
}

/// Commands of the transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Read = 0,
    Disconnect = 2,
    BlockStatus = 7,
}

/// The front of an answer; what belongs to it follows in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The request's cookie.
    pub(super) cookie: u64,
    /// Whether the answer ends here.
    pub(super) done: bool,
    pub(super) kind: ChunkKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkKind {
    /// Nothing; or all bytes asked for, in a simple answer to a read.
    None { simple: bool },
    /// So many bytes of the disk's content from this offset follow.
    Data { offset: u64, len: u32 },
    /// Zeros.
    Hole { offset: u64, len: u32 },
    /// Extents of one context follow; so many.
    Status { context: u32, extents: u32 },
    /// An error's number; a message of so many bytes follows, and then so many that mean nothing here.
    Error { number: u32, message: u32, rest: u32 },
}

/// A run of the disk with the same flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// Length in bytes, not 0.
    pub len: u32,
    /// What the context says of it.
    pub flags: u32,
}

/// Reads exactly `N` bytes.
pub(super) fn take<const N: usize>(input: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(input, &mut bytes)?;
    Ok(bytes)
}

/// Fills `out`.
pub(super) fn fill(input: &mut impl Read, out: &mut [u8]) -> Result<()> {
    input.read_exact(out).map_err(super::lost)
}

/// Reads so many bytes, which the caller has found few enough.
fn vec(input: &mut impl Read, len: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    fill(input, &mut bytes)?;
    Ok(bytes)
}

fn u16_(input: &mut impl Read) -> Result<u16> {
    take(input).map(u16::from_be_bytes)
}

fn u32_(input: &mut impl Read) -> Result<u32> {
    take(input).map(u32::from_be_bytes)
}

fn u64_(input: &mut impl Read) -> Result<u64> {
    take(input).map(u64::from_be_bytes)
}

/// Reads a server's first bytes, and gives what the client answers.
///
/// # Errors
/// When it is no NBD server, or one of the old handshake.
pub(super) fn greeting(input: &mut impl Read) -> Result<[u8; 4]> {
    if &take::<8>(input)? != GREETING {
        return Err(bad("what answers there is no NBD server"));
    }
    let style = take::<8>(input)?;
    if &style == OLD_STYLE {
        return Err(bad("the NBD server speaks the handshake from before 2007 only"));
    }
    let flags = u16_(input)?;
    if &style != OPTION_MAGIC || flags & 1 == 0 {
        return Err(bad("the NBD server does not speak the fixed newstyle handshake"));
    }
    Ok(u32::from(flags & FLAGS).to_be_bytes())
}

/// An option with its data, whose length the callers bound.
pub(super) fn option(option: Opt, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC[..], &(option as u32).to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// A text with its length before it.
pub(super) fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// Reads one answer to `option`.
pub(super) fn option_reply(input: &mut impl Read, option: Opt) -> Result<OptionReply> {
    if u64_(input)? != OPTION_REPLY_MAGIC {
        return Err(bad("the NBD server's answer to an option does not begin as one"));
    }
    let (about, kind, len) = (u32_(input)?, u32_(input)?, u32_(input)?);
    if about != option as u32 {
        return Err(bad(format!("the NBD server answers option {about}; it was asked for option {}", option as u32)));
    }
    if len > MAX_OPTION_REPLY_BYTES {
        return Err(bad(format!("the NBD server's answer to option {about} has {len} bytes")));
    }
    let data = vec(input, len)?;
    option_answer(kind, &data)
        .ok_or_else(|| bad(format!("the NBD server's answer {kind} to option {about} makes no sense")))
}

fn option_answer(kind: u32, data: &[u8]) -> Option<OptionReply> {
    let number = |at: usize| data.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    Some(match kind {
        1 if data.is_empty() => OptionReply::Ack,
        2 => OptionReply::Server(data.get(4..)?.get(..number(0)? as usize)?.to_vec()),
        3 => OptionReply::Info(info(data)?),
        4 => OptionReply::Context(number(0)?, data.get(4..)?.to_vec()),
        kind if kind & 1 << 31 != 0 => OptionReply::Refused(kind & !(1 << 31), printable(data)),
        _ => return None,
    })
}

fn info(data: &[u8]) -> Option<Info> {
    let number = |at: usize| data.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let kind = data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?;
    Some(match (kind, data.len()) {
        (0, 12) => {
            let size = data.get(2..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))?;
            Info::Export(size, data.get(10..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))?)
        }
        (3, 14) => Info::BlockSize(number(2)?, number(10)?),
        (0 | 3, _) => return None,
        _ => Info::Other,
    })
}

/// A request.
pub(super) fn request(command: Command, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut out = [0; 28];
    let fields: [&[u8]; 6] = [
        &REQUEST_MAGIC.to_be_bytes(),
        &[0, 0],
        &(command as u16).to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ];
    for (to, from) in out.iter_mut().zip(fields.iter().flat_map(|field| field.iter())) {
        *to = *from;
    }
    out
}

/// Reads the front of the next answer, or of a part of one.
///
/// # Errors
/// For what is no answer, and for lengths that cannot be.
pub(super) fn chunk(input: &mut impl Read, structured: bool) -> Result<Chunk> {
    match u32_(input)? {
        SIMPLE_REPLY_MAGIC => {
            let (number, cookie) = (u32_(input)?, u64_(input)?);
            let kind = if number == 0 {
                ChunkKind::None { simple: true }
            } else {
                ChunkKind::Error { number, message: 0, rest: 0 }
            };
            Ok(Chunk { cookie, done: true, kind })
        }
        STRUCTURED_REPLY_MAGIC if structured => {
            let (flags, kind, cookie, len) = (u16_(input)?, u16_(input)?, u64_(input)?, u32_(input)?);
            let done = flags & 1 != 0;
            let wrong = || bad(format!("part {kind:#x} of an NBD answer has {len} bytes"));
            Ok(Chunk { cookie, done, kind: chunk_kind(input, kind, len, done)?.ok_or_else(wrong)? })
        }
        magic => Err(bad(format!("the NBD server's answer begins with {magic:#010x}"))),
    }
}

fn chunk_kind(input: &mut impl Read, kind: u16, len: u32, done: bool) -> Result<Option<ChunkKind>> {
    Ok(Some(match (kind, len) {
        (0, 0) if done => ChunkKind::None { simple: false },
        (1, 9..) => ChunkKind::Data { offset: u64_(input)?, len: len - 8 },
        (2, 12) => ChunkKind::Hole { offset: u64_(input)?, len: u32_(input)? },
        (5, 12..=MAX_STATUS_BYTES) if len % 8 == 4 => ChunkKind::Status { context: u32_(input)?, extents: len / 8 },
        (0x8000.., 6..=MAX_MESSAGE_BYTES) => {
            let (number, message) = (u32_(input)?, u32::from(u16_(input)?));
            match (len - 6).checked_sub(message) {
                Some(rest) if number != 0 => ChunkKind::Error { number, message, rest },
                _ => return Ok(None),
            }
        }
        _ => return Ok(None),
    }))
}

/// The message of an error, and past what else belongs to it.
pub(super) fn message(input: &mut impl Read, message: u32, rest: u32) -> Result<String> {
    let text = vec(input, message)?;
    vec(input, rest)?;
    Ok(printable(&text))
}

/// So many extents. The memory grows as they come.
pub(super) fn extents(input: &mut impl Read, count: u32) -> Result<Vec<StatusExtent>> {
    let one = |_| {
        let (len, flags) = (u32_(input)?, u32_(input)?);
        if len == 0 {
            Err(bad("the NBD server tells of an extent without bytes"))
        } else {
            Ok(StatusExtent { len, flags })
        }
    };
    (0..count).map(one).collect()
}

/// An error's number in words.
pub(super) fn error_text(number: u32) -> String {
    match number {
        1 => "it is not allowed".into(),
        5 => "input/output error".into(),
        12 => "out of memory".into(),
        22 => "it finds the request invalid".into(),
        28 => "no space is left".into(),
        75 => "the request is too large".into(),
        95 => "it does not support this".into(),
        108 => "it is shutting down".into(),
        number => format!("error {number}"),
    }
}

/// The number of an option's refusal in words.
pub(super) fn refusal_text(number: u32) -> String {
    match number {
        1 => "it does not know this".into(),
        2 => "it is not allowed to".into(),
        3 => "it finds the request invalid".into(),
        5 => "it wants TLS, which is not supported here".into(),
        6 => "it has no such export".into(),
        7 => "it is shutting down".into(),
        8 => "it wants to be asked for its block size".into(),
        9 => "the request is too large".into(),
        number => format!("reason {number}"),
    }
}
