//! Decoder of RBD diffs, alone, one after the other, or in the container of `rbd export --export-format 2`.

use super::record::{Record, parse, shown, u64_at};
use super::{MAX_SNAPSHOT_NAME_BYTES, PIECE_BYTES, snapshot_id};
use crate::Result;
use crate::catalog::points::printable;
use crate::ingest::change::{Change, Decode, Step};
use crate::ingest::image::bad;
use crate::ingest::image::disk::{Disk, Opening, check_size};

const DIFF_V1: &[u8] = b"rbd diff v1\n";
const DIFF_V2: &[u8] = b"rbd diff v2\n";
const IMAGE_V2: &[u8] = b"rbd image v2\n";
/// Stands between a container's description and its diffs; Ceph's documentation leaves it out.
const DIFFS_V2: &[u8] = b"rbd image diffs v2\n";
/// Longest front of a record: a name with tag, length and the name's own length.
const MAX_FRONT_BYTES: usize = 1 + 8 + 4 + MAX_SNAPSHOT_NAME_BYTES;

/// Where in the stream the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first magic, or after a whole diff.
    Magic,
    /// In the container's description.
    Describing,
    /// Before the container's second magic and the number of diffs.
    Counting,
    /// Before a record.
    Record,
    /// In the content of a write: offset in the disk, bytes left.
    Content(u64, u64),
    /// In something that means nothing here: bytes left, and where it goes on then.
    Skipping(u64, Then),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Describing,
    Record,
}

/// Decodes diffs; see [`super`].
#[derive(Debug)]
pub struct DiffDecoder {
    disk: Disk,
    at: At,
    doing: &'static str,
    version_2: bool,
    /// In a container: diffs that are still to come.
    to_come: Option<u64>,
    /// Whole diffs so far.
    done: u64,
    /// Snapshot of the last of them; None for the image as it is.
    last: Option<Vec<u8>>,
    diff: Diff,
}

/// What is known of the diff being read.
#[derive(Debug, Default)]
struct Diff {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    size: Option<u64>,
    /// Names of the states, from when content begins.
    id: Vec<u8>,
    parent: Option<Vec<u8>>,
    /// None while metadata may come.
    opening: Option<Opening>,
}

impl DiffDecoder {
    /// For diffs of the image that is the file `disk`.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self {
            disk,
            at: At::Magic,
            doing: "the first bytes",
            version_2: false,
            to_come: None,
            done: 0,
            last: None,
            diff: Diff::default(),
        }
    }

    /// The magic of a diff, or of a container in front of everything.
    fn magic(&mut self, input: &[u8]) -> Result<Step<'static>> {
        let begins = |magic: &[u8]| input.iter().zip(magic).all(|(a, b)| a == b);
        let container_allowed = self.done == 0 && self.to_come.is_none();
        if self.to_come == Some(0) {
            return Err(bad("bytes follow the last diff of the container"));
        }
        for (magic, version_2, next) in
            [(DIFF_V1, false, At::Record), (DIFF_V2, true, At::Record), (IMAGE_V2, true, At::Describing)]
        {
            let allowed = if next == At::Describing { container_allowed } else { version_2 || self.to_come.is_none() };
            if !allowed || !begins(magic) {
                continue;
            }
            if input.len() < magic.len() {
                return Ok(Step::More(magic.len()));
            }
            (self.at, self.version_2) = (next, version_2);
            self.doing = if next == At::Describing { "the container's description" } else { "a diff's metadata" };
            self.diff = Diff::default();
            self.to_come = self.to_come.map(|diffs| diffs - 1);
            return Ok(Step::Change(magic.len(), None));
        }
        Err(if self.done == 0 && self.to_come.is_none() {
            bad("this is no stream of 'rbd export-diff' or 'rbd export --export-format 2'")
                .advise("the output of a plain 'rbd export' needs --raw")
        } else {
            bad("what follows a diff is not another diff")
        })
    }

    /// An entry of the container's description: nothing of it is kept.
    fn describing(&mut self, input: &[u8]) -> Result<Step<'static>> {
        match (input.first(), u64_at(input, 1)) {
            (Some(b'E'), _) => {
                (self.at, self.doing) = (At::Counting, "the container's number of diffs");
                Ok(Step::Change(1, None))
            }
            (Some(b'A'..=b'Z'), Some(len)) => {
                self.at = At::Skipping(len, Then::Describing);
                Ok(Step::Change(9, None))
            }
            (Some(b'A'..=b'Z') | None, _) => Ok(Step::More(9)),
            (Some(tag), _) => Err(bad(format!("{} is no entry of a container's description", shown(*tag)))),
        }
    }

    fn counting(&mut self, input: &[u8]) -> Result<Step<'static>> {
        if !input.iter().zip(DIFFS_V2).all(|(a, b)| a == b) {
            return Err(bad("the container's description is not followed by its diffs"));
        }
        match u64_at(input, DIFFS_V2.len()) {
            None => Ok(Step::More(DIFFS_V2.len() + 8)),
            Some(0) => Err(bad("the container has no diff, so there is no image in it")),
            Some(diffs) => {
                (self.at, self.to_come) = (At::Magic, Some(diffs));
                Ok(Step::Change(DIFFS_V2.len() + 8, None))
            }
        }
    }

    fn record(&mut self, input: &[u8]) -> Result<Step<'_>> {
        let (used, record) = match parse(input, self.version_2)? {
            Ok(found) => found,
            Err(needed) => return Ok(Step::More(needed)),
        };
        match record {
            Record::From(_) | Record::To(_) | Record::Size(_) => {
                self.metadata(record)?;
                return Ok(Step::Change(used, None));
            }
            Record::Unknown { len, .. } => {
                self.at = At::Skipping(len, Then::Record);
                return Ok(Step::Change(used, None));
            }
            Record::Write { .. } | Record::Zero { .. } | Record::End => {}
        }
        let size = self.begin()?;
        let parent = self.diff.parent.as_deref();
        let opening = self.diff.opening.get_or_insert_default();
        if let Some(change) = opening.next(&self.disk, &self.diff.id, parent, size) {
            return Ok(Step::Change(0, Some(change)));
        }
        let path: &[u8] = &self.disk.name;
        let change = match record {
            Record::Write { offset, len } => {
                self.doing = "a write (record 'w')";
                if offset.checked_add(len).is_none_or(|end| end > size) {
                    return Err(bad(format!("{len} bytes at {offset} in a disk of {size} bytes")));
                }
                self.at = At::Content(offset, len);
                None
            }
            Record::Zero { offset, len } => {
                self.doing = "a hole (record 'z')";
                let end = offset.checked_add(len).ok_or_else(|| bad(format!("a hole of {len} bytes at {offset}")))?;
                // After a shrink, holes may reach past the end.
                let len = end.min(size).saturating_sub(offset);
                (len > 0).then_some(Change::Zero { path, offset, len, extend: false })
            }
            _ => {
                (self.at, self.doing) = (At::Magic, "what follows a diff");
                self.done += 1;
                self.last.clone_from(&self.diff.to);
                Some(Change::End)
            }
        };
        Ok(Step::Change(used, change))
    }

    fn metadata(&mut self, record: Record<'_>) -> Result<()> {
        let diff = &mut self.diff;
        if diff.opening.is_some() {
            return Err(bad("names and sizes must stand before content"));
        }
        let known = match record {
            Record::From(name) => diff.from.replace(name.to_vec()).is_some(),
            Record::To(name) => diff.to.replace(name.to_vec()).is_some(),
            Record::Size(size) => diff.size.replace(check_size(size)?).is_some(),
            _ => false,
        };
        if known { Err(bad("a name or the size is given twice")) } else { Ok(()) }
    }

    /// Settles what the diff is, before its first content. Gives the disk's size.
    fn begin(&mut self) -> Result<u64> {
        let diff = &mut self.diff;
        let Some(size) = diff.size else {
            return Err(bad("the diff does not say how large the disk is (no record 's' before content)"));
        };
        if diff.opening.is_none() {
            if self.done > 0 && diff.from != self.last {
                let name = |name: &Option<Vec<u8>>| match name {
                    Some(name) => format!("snapshot '{}'", printable(name)),
                    None => "no snapshot".to_owned(),
                };
                let (from, last) = (name(&diff.from), name(&self.last));
                return Err(bad(format!("a diff from {from} follows one that led to {last}")));
            }
            diff.id = snapshot_id(diff.to.as_deref())?;
            diff.parent.clone_from(&diff.from);
            diff.opening = Some(Opening::default());
            self.doing = "a diff's content";
        }
        Ok(size)
    }

    fn content<'a>(&'a mut self, input: &'a [u8], offset: u64, left: u64) -> Step<'a> {
        let piece = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        if left == 0 {
            self.at = At::Record;
            return Step::Change(0, None);
        }
        let Some(data) = input.get(..piece) else { return Step::More(piece) };
        self.at = At::Content(offset + piece as u64, left - piece as u64);
        Step::Change(piece, Some(Change::Write { path: &self.disk.name, offset, data }))
    }

    fn skipping(&mut self, input: &[u8], left: u64, then: Then) -> Step<'static> {
        let used = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        if left == 0 {
            self.at = if then == Then::Record { At::Record } else { At::Describing };
        } else if used == 0 {
            return Step::More(1);
        } else {
            self.at = At::Skipping(left - used as u64, then);
        }
        Step::Change(used, None)
    }
}

impl Decode for DiffDecoder {
    fn next<'a>(&'a mut self, input: &'a [u8], _last: bool) -> Result<Step<'a>> {
        match self.at {
            At::Magic => self.magic(input),
            At::Describing => self.describing(input),
            At::Counting => self.counting(input),
            At::Record => self.record(input),
            At::Content(offset, left) => Ok(self.content(input, offset, left)),
            At::Skipping(left, then) => Ok(self.skipping(input, left, then)),
        }
    }

    fn may_end(&self) -> bool {
        self.at == At::Magic && self.done > 0 && self.to_come.unwrap_or(0) == 0
    }

    fn max_input_bytes(&self) -> usize {
        PIECE_BYTES.max(MAX_FRONT_BYTES)
    }

    fn doing(&self) -> &str {
        self.doing
    }
}
