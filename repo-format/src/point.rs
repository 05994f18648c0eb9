//! A restore point record: one immutable tree root and its description (SPEC.md section 8).

use crate::error::{Problem, Result};
use crate::id::{ChunkId, PointId, RepoId};
use crate::key::{MAX_INO, ROOT_INO};
use crate::value::{Time, read_time};
use crate::wire::{Reader, Writer, len_u32};
use alloc::vec::Vec;

/// Bytes of a record's fixed part; tagged fields follow.
pub const POINT_FIXED_BYTES: usize = 168;
const MAGIC: &[u8; 4] = b"RPNT";
/// Fields from this tag on may be ignored by a program that does not know them.
const OPTIONAL_TAGS: u16 = 0x8000;
/// The tag of the set that a point belongs to: 16 bytes.
pub const SET_TAG: u16 = 0x8100;
/// The tag that says that no entry of the tree is a POSIX ACL: no bytes.
pub const NO_ACLS_TAG: u16 = 0x8101;
/// The tags that every record has, as bits: host, source, program.
const ALWAYS: u16 = 1 << 1 | 1 << 2 | 1 << 8;

/// What kind of producer a source is. Zero is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum SourceKind {
    /// A directory scan.
    Dir = 1,
    /// A btrfs send stream.
    Btrfs = 2,
    /// A disk image or block device.
    Image = 3,
    /// A Ceph RBD export or diff.
    Rbd = 4,
}

/// What a restore point counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Inodes that are not directories.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Sum of the sizes of regular files, each inode once, in bytes.
    pub bytes: u64,
    /// Bytes of content read from the source by this run.
    pub read_bytes: u64,
    /// Chunks this run added.
    pub new_chunks: u64,
    /// Uncompressed bytes of the chunks this run added.
    pub new_bytes: u64,
    /// Bytes this run added to packages, as stored.
    pub stored_bytes: u64,
    /// Files that could not be read, or not completely.
    pub errors: u64,
}

/// One restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointRecord {
    /// The repository.
    pub repo: RepoId,
    /// The point's id.
    pub id: PointId,
    /// When the state was taken; the point's name derives from it.
    pub time: Time,
    /// When the point was sealed.
    pub sealed: Time,
    /// Root node of the tree.
    pub root: ChunkId,
    /// The next free inode number of the chain.
    pub next_ino: u64,
    /// The kind of source.
    pub kind: SourceKind,
    /// Host the data came from, bytes.
    pub host: Vec<u8>,
    /// The source's name on that host, bytes.
    pub source: Vec<u8>,
    /// The point before it in the chain that it was made from.
    pub parent: Option<PointId>,
    /// Counters.
    pub counts: Counts,
    /// The backed-up paths, bytes.
    pub paths: Vec<Vec<u8>>,
    /// Tags.
    pub tags: Vec<Vec<u8>>,
    /// Identities of the source's file systems, in order of their ordinal.
    pub file_systems: Vec<Vec<u8>>,
    /// What the reader should know: fallbacks taken, files left out.
    pub notes: Vec<Vec<u8>>,
    /// The program that made it.
    pub program: Vec<u8>,
    /// Fields of a newer program, carried as they are: (tag, bytes), ascending, tags from 0x8000.
    pub extra: Vec<(u16, Vec<u8>)>,
}

/// The id of a set: points of several sources that were taken together. As text a GUID in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub [u8; 16]);

impl core::fmt::Display for SetId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl core::str::FromStr for SetId {
    type Err = ();

    /// Reads a GUID: 32 hexadecimal digits, dashes where GUIDs have them or nowhere, perhaps in braces.
    fn from_str(text: &str) -> core::result::Result<Self, ()> {
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text).as_bytes();
        let dashed = inner.len() == 36;
        let (mut id, mut digits) = ([0; 16], 0_usize);
        for (at, byte) in inner.iter().enumerate() {
            if dashed && matches!(at, 8 | 13 | 18 | 23) {
                if *byte != b'-' {
                    return Err(());
                }
                continue;
            }
            let digit = char::from(*byte).to_digit(16).ok_or(())?;
            let place = id.get_mut(digits / 2).ok_or(())?;
            *place = *place << 4 | digit as u8;
            digits += 1;
        }
        if digits == 32 { Ok(Self(id)) } else { Err(()) }
    }
}

impl PointRecord {
    /// The set that the point belongs to, if it says so in 16 bytes.
    #[must_use]
    pub fn set(&self) -> Option<SetId> {
        let (_, bytes) = self.extra.iter().find(|(tag, _)| *tag == SET_TAG)?;
        Some(SetId(bytes.as_slice().try_into().ok()?))
    }

    /// Whether the point is known to have no POSIX ACLs. Of older points nothing is known.
    #[must_use]
    pub fn has_no_acls(&self) -> bool {
        self.extra.iter().any(|(tag, _)| *tag == NO_ACLS_TAG)
    }

    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(512);
        w.bytes(MAGIC).u16(1).u8(self.kind as u8).u8(0).bytes(&self.repo.0).bytes(&self.id.0);
        w.i64(self.time.sec).u32(self.time.nsec).i64(self.sealed.sec).u32(self.sealed.nsec);
        w.bytes(&self.root.0).u64(self.next_ino);
        let c = &self.counts;
        for count in [c.files, c.dirs, c.bytes, c.read_bytes, c.new_chunks, c.new_bytes, c.stored_bytes, c.errors] {
            w.u64(count);
        }
        field(&mut w, 1, &self.host);
        field(&mut w, 2, &self.source);
        if let Some(parent) = self.parent {
            field(&mut w, 3, &parent.0);
        }
        for (tag, list) in [(4, &self.paths), (5, &self.tags), (6, &self.file_systems), (7, &self.notes)] {
            list.iter().for_each(|item| field(&mut w, tag, item));
        }
        field(&mut w, 8, &self.program);
        self.extra.iter().for_each(|(tag, bytes)| field(&mut w, *tag, bytes));
        w.finish_checked()
    }

    /// Decodes a restore point record.
    ///
    /// # Errors
    /// On bytes that [`PointRecord::encode`] would not make, and on unknown fields that may not be ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Reader::new("restore point", bytes).magic(MAGIC)?;
        let mut r = Reader::checked("restore point", bytes)?;
        r.magic(MAGIC)?;
        if r.u16()? != 1 {
            return Err(r.error(Problem::Version));
        }
        let mut point = read_fixed(&mut r)?;
        let (mut last, mut named) = (0, 0_u16);
        while r.remaining() > 0 {
            let (tag, len) = (r.u16()?, r.u32()?);
            let repeats = (4..=7).contains(&tag);
            if tag < last || (tag == last && !repeats) {
                return Err(r.error(Problem::Order));
            }
            last = tag;
            named |= 1_u16.checked_shl(u32::from(tag)).unwrap_or(0);
            let value = r.take(len as usize)?;
            point.put_field(tag, value).ok_or(r.field("tag"))?;
        }
        // Written even when empty, so that one record has one encoding.
        if named & ALWAYS == ALWAYS { Ok(point) } else { Err(r.field("tag")) }
    }

    fn put_field(&mut self, tag: u16, value: &[u8]) -> Option<()> {
        let value = value.to_vec();
        match tag {
            1 => self.host = value,
            2 => self.source = value,
            3 => self.parent = Some(PointId(value.try_into().ok()?)),
            4 => self.paths.push(value),
            5 => self.tags.push(value),
            6 => self.file_systems.push(value),
            7 => self.notes.push(value),
            8 => self.program = value,
            OPTIONAL_TAGS.. => self.extra.push((tag, value)),
            _ => return None,
        }
        Some(())
    }
}

fn field(w: &mut Writer, tag: u16, value: &[u8]) {
    w.u16(tag).u32(len_u32(value.len())).bytes(value);
}

fn read_fixed(r: &mut Reader<'_>) -> Result<PointRecord> {
    let kind = match r.u8()? {
        1 => SourceKind::Dir,
        2 => SourceKind::Btrfs,
        3 => SourceKind::Image,
        4 => SourceKind::Rbd,
        _ => return Err(r.field("kind")),
    };
    r.zeros(1)?;
    let (repo, id) = (RepoId(r.array()?), PointId(r.array()?));
    let (time, sealed) = (read_time(r)?, read_time(r)?);
    let (root, next_ino) = (ChunkId(r.array()?), r.u64()?);
    // Number 1 is taken by the root, and the last number can have been given away.
    if next_ino <= ROOT_INO || next_ino > MAX_INO + 1 {
        return Err(r.field("next_ino"));
    }
    let counts = Counts {
        files: r.u64()?,
        dirs: r.u64()?,
        bytes: r.u64()?,
        read_bytes: r.u64()?,
        new_chunks: r.u64()?,
        new_bytes: r.u64()?,
        stored_bytes: r.u64()?,
        errors: r.u64()?,
    };
    Ok(PointRecord {
        repo,
        id,
        time,
        sealed,
        root,
        next_ino,
        kind,
        counts,
        host: Vec::new(),
        source: Vec::new(),
        parent: None,
        paths: Vec::new(),
        tags: Vec::new(),
        file_systems: Vec::new(),
        notes: Vec::new(),
        program: Vec::new(),
        extra: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn set_ids_are_guids() {
        let text = "0123abcd-4567-89ef-0123-456789abcdef";
        let id: SetId = text.parse().expect("a GUID");
        assert_eq!(id.to_string(), text);
        for same in ["{0123ABCD-4567-89EF-0123-456789ABCDEF}", "0123abcd456789ef0123456789abcdef"] {
            assert_eq!(same.parse(), Ok(id), "{same}");
        }
        for wrong in [
            "",
            "{",
            "0123abcd",
            "0123abcd-4567-89ef-0123-456789abcde",
            "0123abcd4-567-89ef-0123-456789abcdef",
            "{0123abcd-4567-89ef-0123-456789abcdef",
            "0123abcd456789ef0123456789abcdef00",
            "0123abcd456789ef0123456789abcdeg",
            "\u{fc}123abcd456789ef0123456789abcde",
        ] {
            assert_eq!(wrong.parse::<SetId>(), Err(()), "{wrong}");
        }
    }
}
