//! What restore points record of a disk's states (SPEC.md section 15).

use crate::ingest::stream::states::TAG_STATE;
use repo_format::PointRecord;
use std::ops::Range;

/// Tag of the ranges of a disk that are zeros in the point, whatever the disk had there.
pub const LEFT_OUT: u16 = 0x8010;

/// The id of the state that a point holds.
#[must_use]
pub fn id(point: &PointRecord) -> Option<&[u8]> {
    field(point, TAG_STATE)
}

/// Ranges that were left out, as pairs of first byte and length, u64 each.
#[must_use]
pub fn left_out(point: &PointRecord) -> Vec<Range<u64>> {
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let range = |pair: &[u8]| {
        let (start, len) = (number(pair)?, number(pair.get(8..)?)?);
        Some(start..start.checked_add(len)?)
    };
    field(point, LEFT_OUT).unwrap_or_default().chunks(16).filter_map(range).collect()
}

/// The field that says so; None if nothing was left out.
#[must_use]
pub fn left_out_field(ranges: &[Range<u64>]) -> Option<(u16, Vec<u8>)> {
    let bytes = |range: &Range<u64>| [range.start.to_le_bytes(), (range.end - range.start).to_le_bytes()].concat();
    (!ranges.is_empty()).then(|| (LEFT_OUT, ranges.iter().flat_map(bytes).collect()))
}

fn field(point: &PointRecord, tag: u16) -> Option<&[u8]> {
    point.extra.iter().find(|(known, _)| *known == tag).map(|(_, bytes)| bytes.as_slice())
}
