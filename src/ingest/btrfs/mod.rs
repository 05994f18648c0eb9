//! btrfs send streams, versions 1 to 3, as changes (SPEC.md section 19).
//!
//! | module | holds |
//! |---|---|
//! | `command` | the commands: names, versions, and which change each is |
//! | `attributes` | the values of one command |
//! | `encoded` | encoded writes: zlib, zstd, LZO, and what they may expand to |
//! | `lzo` | LZO1X that cannot be led astray |
//! | `source` | the content that `--no-data` streams leave out |

mod attributes;
mod command;
mod encoded;
mod lzo;
mod source;
#[cfg(test)]
mod tests;

use super::change::{Decode, Step};
use crate::{Error, ErrorKind, Result};
use attributes::Attributes;
use command::{Command, Translated};
use encoded::Expander;
pub use source::{SnapshotDir, SnapshotId};

/// What a stream begins with.
const MAGIC: &[u8; 13] = b"btrfs-stream\0";
/// Magic and version.
const STREAM_HEADER_BYTES: usize = 17;
/// Length of the payload, command, checksum.
const COMMAND_HEADER_BYTES: usize = 10;
/// The longest payload that is taken. Kernels make at most 64 KiB in version 1 and 192 KiB since.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// The newest version.
const MAX_VERSION: u32 = 3;

/// Where in the stream the decoder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first header.
    Start,
    /// Behind a header or a command of a stream of this version.
    Commands(u32),
    /// Behind END: another stream may follow.
    Ended,
}

/// The decoder. Checks the checksum of every command before it looks inside.
#[derive(Debug)]
pub struct BtrfsDecoder {
    place: Place,
    /// The command at the front of the input, for messages.
    doing: String,
    /// Changes of the command at the front that were given already.
    given: u32,
    /// A state has begun in this stream.
    begun: bool,
    /// Files with fs-verity were met in this state, and a note was given.
    noted_verity: bool,
    expander: Expander,
}

impl Default for BtrfsDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl BtrfsDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        let doing = "the header".to_owned();
        Self { place: Place::Start, doing, given: 0, begun: false, noted_verity: false, expander: Expander::default() }
    }

    /// The header of a stream.
    fn header<'a>(&mut self, input: &[u8]) -> Result<Step<'a>> {
        self.doing.clear();
        self.doing.push_str("the header");
        if !input.starts_with(MAGIC) && !MAGIC.starts_with(input) {
            let what = if self.place == Place::Ended {
                "what follows the end of the stream is no other stream"
            } else {
                "this is no btrfs send stream"
            };
            return Err(bad(what).advise("make it by 'btrfs send'; streams may follow each other, but nothing else may stand between or behind them"));
        }
        let Some(version) = input.get(MAGIC.len()..).and_then(|rest| rest.first_chunk()) else {
            return Ok(Step::More(STREAM_HEADER_BYTES));
        };
        let version = u32::from_le_bytes(*version);
        if version == 0 || version > MAX_VERSION {
            let what =
                format!("this is a btrfs send stream of version {version}; versions 1 to {MAX_VERSION} can be read");
            return Err(bad(what).advise("make it again by 'btrfs send --proto 2', or use a newer relict"));
        }
        self.place = Place::Commands(version);
        self.begun = false;
        Ok(Step::Change(STREAM_HEADER_BYTES, None))
    }

    fn command<'a>(&'a mut self, input: &'a [u8], version: u32, last: bool) -> Result<Step<'a>> {
        if input.starts_with(MAGIC) {
            self.name("the header");
            return Err(bad("another stream begins, and the one before has no END: it was cut"));
        }
        let Some(header) = input.first_chunk::<COMMAND_HEADER_BYTES>() else {
            self.name("a command's header");
            return Ok(Step::More(COMMAND_HEADER_BYTES));
        };
        let [l0, l1, l2, l3, c0, c1, s0, s1, s2, s3] = *header;
        let payload_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let number = u16::from_le_bytes([c0, c1]);
        let command = Command::from_number(number, version);
        match command {
            Ok(command) => self.name(command.name()),
            Err(_) => self.doing = format!("command {number}"),
        }
        if payload_bytes > MAX_PAYLOAD_BYTES {
            return Err(bad(format!("it claims {payload_bytes} bytes; a command has at most {MAX_PAYLOAD_BYTES}")));
        }
        let used = COMMAND_HEADER_BYTES + payload_bytes;
        let Some(payload) = input.get(COMMAND_HEADER_BYTES..used) else { return Ok(Step::More(used)) };
        if self.given == 0 {
            check(header, payload, u32::from_le_bytes([s0, s1, s2, s3]))?;
        }
        // Only after the checksum: damage should be called damage.
        let command = command?;
        if command == Command::End {
            return self.end(input.get(used..).unwrap_or_default(), used, last);
        }
        if !self.begun && !command.begins() {
            return Err(bad("it stands before any SUBVOL or SNAPSHOT"));
        }
        self.begun = true;
        if command.begins() {
            self.noted_verity = false;
        }
        let attributes = Attributes::parse(payload, version)?;
        let noted = self.noted_verity;
        self.noted_verity |= command == Command::EnableVerity;
        match command.translate(&attributes, self.given, noted, &mut self.expander)? {
            Translated::Last(change) => {
                self.given = 0;
                Ok(Step::Change(used, change))
            }
            Translated::MoreFollow(change) => {
                self.given += 1;
                Ok(Step::Change(0, Some(change)))
            }
        }
    }

    /// END. What follows is looked at first, so that a stream with damage behind its end seals nothing.
    fn end<'a>(&mut self, behind: &[u8], used: usize, last: bool) -> Result<Step<'a>> {
        if !self.begun {
            return Err(bad("the stream ends, but has neither a SUBVOL nor a SNAPSHOT"));
        }
        if behind.len() < STREAM_HEADER_BYTES && !last {
            return Ok(Step::More(used + STREAM_HEADER_BYTES));
        }
        if !behind.is_empty() && !behind.starts_with(MAGIC) {
            let what = format!("{} or more bytes follow the end of the stream that are no other stream", behind.len());
            return Err(bad(what));
        }
        self.place = Place::Ended;
        self.begun = false;
        Ok(Step::Change(used, Some(super::change::Change::End)))
    }

    fn name(&mut self, name: &str) {
        if self.doing != name {
            self.doing.clear();
            self.doing.push_str(name);
        }
    }
}

impl Decode for BtrfsDecoder {
    fn next<'a>(&'a mut self, input: &'a [u8], last: bool) -> Result<Step<'a>> {
        match self.place {
            Place::Start | Place::Ended => self.header(input),
            Place::Commands(version) => self.command(input, version, last),
        }
    }

    fn may_end(&self) -> bool {
        self.place == Place::Ended
    }

    fn max_input_bytes(&self) -> usize {
        COMMAND_HEADER_BYTES + MAX_PAYLOAD_BYTES + STREAM_HEADER_BYTES
    }

    fn doing(&self) -> &str {
        &self.doing
    }
}

/// The checksum of a command: CRC-32C of header and payload with the sum's own bytes zero, that begins with zero and is
/// not inverted.
fn checksum(header: &[u8; COMMAND_HEADER_BYTES], payload: &[u8]) -> u32 {
    let [l0, l1, l2, l3, c0, c1, ..] = *header;
    let begun = crc32c::crc32c_append(u32::MAX, &[l0, l1, l2, l3, c0, c1, 0, 0, 0, 0]);
    crc32c::crc32c_append(begun, payload) ^ u32::MAX
}

fn check(header: &[u8; COMMAND_HEADER_BYTES], payload: &[u8], stated: u32) -> Result<()> {
    let found = checksum(header, payload);
    if found == stated {
        return Ok(());
    }
    let what = format!("its checksum is wrong: {found:08x}, and the stream says {stated:08x}");
    Err(bad(what).advise("the stream was damaged on its way: send it again; nothing of this state was kept"))
}

/// What is not valid in the stream.
fn bad(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadInput, what)
}
