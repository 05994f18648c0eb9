//! The XML of `thin_delta`: which blocks of two snapshots of a dm-thin pool are the same.
//!
//! Numbers are in data blocks; `data_block_size` is in sectors of 512 bytes. `left` is the base, `right` the
//! disk as it is. What only the left one has is not mapped any more and reads as zeros.

use super::ExtentList;
use crate::Result;
use crate::catalog::points::printable;
use crate::ingest::image::bad;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Bytes of a sector in dm-thin's metadata, whatever the device's are.
const SECTOR_BYTES: u64 = 512;
/// dm-thin's blocks are multiples of this, in sectors, ...
const BLOCK_STEP: u64 = 128;
/// ... up to this.
const MAX_BLOCK_SECTORS: u64 = 2 << 20;

/// What an element says of its ranges: None for unchanged, else whether they are zeros now.
type Meaning = Option<bool>;

#[derive(Default)]
struct Parser {
    list: ExtentList,
    block_bytes: Option<u64>,
    diffs: u32,
    /// In the verbose form: the element whose `range` elements follow.
    group: Option<Meaning>,
    /// Elements that are open: superblock, diff, group.
    depth: u32,
}

/// Parses a list.
///
/// # Errors
/// For anything that `thin_delta` does not write.
pub fn parse(text: &[u8]) -> Result<ExtentList> {
    let mut reader = Reader::from_reader(text);
    let mut parser = Parser::default();
    let wrong = |e: &dyn std::fmt::Display| bad(format!("the list of thin_delta is not valid: {e}"));
    loop {
        match reader.read_event().map_err(|e| wrong(&e))? {
            Event::Start(element) => parser.start(&element, false)?,
            Event::Empty(element) => parser.start(&element, true)?,
            // The reader has seen to it that it ends what is open.
            Event::End(_) => parser.end(),
            Event::Text(text) if text.bytes().all(|byte| byte.is_ascii_whitespace()) => {}
            Event::Decl(_) | Event::Comment(_) => {}
            Event::Eof => break,
            _ => return Err(wrong(&"there is text in it")),
        }
    }
    if parser.depth == 0 && parser.diffs == 1 { Ok(parser.list) } else { Err(wrong(&"it is cut, or has no diff")) }
}

impl Parser {
    fn start(&mut self, element: &BytesStart<'_>, empty: bool) -> Result<()> {
        let name = element.name().into_inner();
        match (self.depth, name) {
            (0, "superblock") if self.block_bytes.is_none() => {
                let sectors = number(element, "data_block_size")?;
                if sectors == 0 || sectors % BLOCK_STEP != 0 || sectors > MAX_BLOCK_SECTORS {
                    return Err(bad(format!("no pool of dm-thin has blocks of {sectors} sectors")));
                }
                self.block_bytes = Some(sectors * SECTOR_BYTES);
            }
            (1, "diff") => {
                self.diffs += 1;
                self.list.base = Some(number(element, "left")?.to_string().into_bytes());
                number(element, "right")?;
            }
            (2, "same") => self.group(element, empty, None)?,
            (2, "different" | "right_only") => self.group(element, empty, Some(false))?,
            (2, "left_only") => self.group(element, empty, Some(true))?,
            (3, "range") if empty => {
                let Some(meaning) = self.group else { return Err(unexpected(name)) };
                self.range(element, meaning)?;
            }
            _ => return Err(unexpected(name)),
        }
        self.depth += u32::from(!empty);
        Ok(())
    }

    /// With ranges inside, or one itself.
    fn group(&mut self, element: &BytesStart<'_>, empty: bool, meaning: Meaning) -> Result<()> {
        self.group = Some(meaning);
        if empty { self.range(element, meaning) } else { Ok(()) }
    }

    fn range(&mut self, element: &BytesStart<'_>, meaning: Meaning) -> Result<()> {
        let (begin, length) = (number(element, "begin")?, number(element, "length")?);
        let bytes = |blocks: u64| self.block_bytes.and_then(|block| block.checked_mul(blocks));
        let beyond = || bad(format!("{length} blocks at {begin} are beyond any disk"));
        let (offset, len) = bytes(begin).zip(bytes(length)).ok_or_else(beyond)?;
        self.list.add(offset, len, meaning)
    }

    const fn end(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}

fn unexpected(name: &str) -> crate::Error {
    bad(format!("the list of thin_delta has an element '{}' where none should be", printable(name.as_bytes())))
}

fn number(element: &BytesStart<'_>, name: &str) -> Result<u64> {
    let found = element.try_get_attribute(name).ok().flatten();
    let digits = found.as_ref().map(|found| &*found.value);
    let plain = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    plain.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        let element = printable(element.name().into_inner().as_bytes());
        bad(format!("the element '{element}' of the list of thin_delta has no number '{name}'"))
    })
}
