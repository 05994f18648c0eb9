//! One record of an RBD diff, as bytes: its tag, its length where the version has one, its fields.

use super::MAX_SNAPSHOT_NAME_BYTES;
use crate::Result;
use crate::ingest::image::bad;

/// The front of a record, without the content that follows a `w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// `f`: the snapshot that the diff starts from.
    From(&'a [u8]),
    /// `t`: the snapshot that it leads to.
    To(&'a [u8]),
    /// `s`: size of the image in bytes.
    Size(u64),
    /// `w`: so many bytes of content follow.
    Write { offset: u64, len: u64 },
    /// `z`: this range is not there any more and reads as zeros.
    Zero { offset: u64, len: u64 },
    /// `e`: the diff is whole.
    End,
    /// Something else that says how long it is.
    Unknown { tag: u8, len: u64 },
}

/// The record at the front of `input` and its length in bytes, or how many bytes it takes to say more.
pub(super) type Parsed<'a> = std::result::Result<(usize, Record<'a>), usize>;

/// Parses the front of a record.
///
/// # Errors
/// For a tag that version 1 does not have, lengths that disagree, and names that no snapshot has.
pub(super) fn parse(input: &[u8], version_2: bool) -> Result<Parsed<'_>> {
    let Some(&tag) = input.first() else { return Ok(Err(1)) };
    if tag == b'e' {
        return Ok(Ok((1, Record::End)));
    }
    let head = if version_2 { 9 } else { 1 };
    let declared = match (version_2, u64_at(input, 1)) {
        (false, _) => None,
        (true, Some(len)) => Some(len),
        (true, None) => return Ok(Err(head)),
    };
    let body = input.get(head..).unwrap_or_default();
    let one = u64_at(body, 0);
    let two = one.zip(u64_at(body, 8));
    let found =
        |front: usize, record: Option<Record<'static>>| Ok(record.map(|r| (head + front, r)).ok_or(head + front));
    match tag {
        b'f' | b't' => name(tag, head, body, declared),
        b's' => {
            check_len(tag, declared, 8)?;
            found(8, one.map(Record::Size))
        }
        b'z' => {
            check_len(tag, declared, 16)?;
            found(16, two.map(|(offset, len)| Record::Zero { offset, len }))
        }
        b'w' => {
            // The record's length covers the content. What saturates is refused as beyond the disk's end.
            two.map_or(Ok(()), |(_, len)| check_len(tag, declared, len.saturating_add(16)))?;
            found(16, two.map(|(offset, len)| Record::Write { offset, len }))
        }
        // The program declares eight bytes here and writes one (seen with Ceph 16.2; its own reader does the same).
        b'p' if matches!(declared, Some(1 | 8)) => Ok(Ok((head, Record::Unknown { tag, len: 1 }))),
        b'p' if version_2 => Err(bad("a record 'p' (is the snapshot protected) that is neither 1 nor 8 bytes long")),
        _ => match declared {
            Some(len) => Ok(Ok((head, Record::Unknown { tag, len }))),
            None => Err(bad(format!("a record of unknown kind {}; version 1 does not say how long it is", shown(tag)))),
        },
    }
}

fn name(tag: u8, head: usize, body: &[u8], declared: Option<u64>) -> Result<Parsed<'_>> {
    let Some(len) = body.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)) else { return Ok(Err(head + 4)) };
    check_len(tag, declared, u64::from(len) + 4)?;
    let len = len as usize;
    if len == 0 || len > MAX_SNAPSHOT_NAME_BYTES {
        return Err(bad(format!("a snapshot's name of {len} bytes; they have 1 to {MAX_SNAPSHOT_NAME_BYTES}")));
    }
    let Some(name) = body.get(4..4 + len) else { return Ok(Err(head + 4 + len)) };
    super::snapshot_id(Some(name))?;
    let record = if tag == b'f' { Record::From(name) } else { Record::To(name) };
    Ok(Ok((head + 4 + len, record)))
}

fn check_len(tag: u8, declared: Option<u64>, len: u64) -> Result<()> {
    match declared {
        Some(declared) if declared != len => {
            Err(bad(format!("a record {} says that it has {declared} bytes, and has {len}", shown(tag))))
        }
        _ => Ok(()),
    }
}

/// A tag for messages.
pub(super) fn shown(tag: u8) -> String {
    if tag.is_ascii_graphic() { format!("'{}'", char::from(tag)) } else { format!("0x{tag:02x}") }
}

/// The number at `at`, if it is there whole.
pub(super) fn u64_at(input: &[u8], at: usize) -> Option<u64> {
    input.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}
