//! `qemu-img map --output=json`: where in a chain of images each range is.
//!
//! Depth 0 is the image itself, what is deeper comes from its backing files. So the map of an overlay that was
//! made at a state is the list of what changed since. The map of an image without backing file has depth
//! 0 everywhere: all of it is new then, which is true, if not helpful.

use super::ExtentList;
use crate::Result;
use crate::ingest::image::bad;
use serde::Deserialize;

/// An entry. QEMU adds fields from version to version; the others do not matter here.
#[derive(Deserialize)]
struct Entry {
    start: u64,
    length: u64,
    depth: u64,
    zero: bool,
}

/// Parses a map.
///
/// # Errors
/// For anything that is none, and for maps with gaps.
pub fn parse(text: &[u8]) -> Result<ExtentList> {
    let entries: Vec<Entry> =
        serde_json::from_slice(text).map_err(|e| bad(format!("the map of qemu-img is not valid: {e}")))?;
    let mut out = ExtentList::default();
    for entry in entries {
        if entry.start != out.at {
            return Err(bad(format!("the map of qemu-img has a gap before {}", entry.start)));
        }
        out.add(entry.start, entry.length, (entry.depth == 0).then_some(entry.zero))?;
    }
    out.size = Some(out.at);
    Ok(out)
}
