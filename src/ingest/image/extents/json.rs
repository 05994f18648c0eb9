//! Our own form of a list of changed extents (SPEC.md section 15):
//! `{"format": "relict-extents-1", "base": "mon", "size": 10737418240, "changed": [{"offset": 0, "length": 65536}]}`.

use super::ExtentList;
use crate::Result;
use crate::ingest::image::bad;
use crate::ingest::image::disk::check_size;
use serde::Deserialize;

/// The first field's value.
pub const FORMAT: &str = "relict-extents-1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    format: String,
    base: String,
    size: u64,
    changed: Vec<Range>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    offset: u64,
    length: u64,
    #[serde(default)]
    zero: bool,
}

/// Parses a list.
///
/// # Errors
/// For anything that the form does not have, ranges out of order, and ranges past the disk's end.
pub fn parse(text: &[u8]) -> Result<ExtentList> {
    let list: List =
        serde_json::from_slice(text).map_err(|e| bad(format!("the list of changed extents is not valid: {e}")))?;
    if list.format != FORMAT {
        return Err(bad(format!("the list of changed extents is not in the format {FORMAT}")));
    }
    let size = check_size(list.size)?;
    let mut out = ExtentList { base: Some(list.base.into_bytes()), size: Some(size), ..ExtentList::default() };
    for range in list.changed {
        out.add(range.offset, range.length, Some(range.zero))?;
    }
    if out.at > size {
        return Err(bad(format!("the list of changed extents goes to {}; the disk has {size} bytes", out.at)));
    }
    Ok(out)
}
