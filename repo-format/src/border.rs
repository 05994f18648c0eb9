//! Where nodes of the tree end. A pure function of the entries, so that the same map has the same nodes (SPEC.md section 6).

/// A node is never closed below this many entry bytes, unless its level ends.
pub const NODE_MIN_BYTES: usize = 4 * 1024;
/// A node is always closed once it has this many entry bytes.
pub const NODE_MAX_BYTES: usize = 64 * 1024;
/// Past the minimum, the mean distance to the next border, in bytes.
pub const NODE_MEAN_EXTRA_BYTES: u64 = 12 * 1024;

const _: () = assert!(NODE_MIN_BYTES < NODE_MAX_BYTES && (NODE_MEAN_EXTRA_BYTES as usize) < NODE_MAX_BYTES);

/// Bytes that an entry counts for: its place in the node's offset table, its key length, its key and its value.
#[must_use]
pub const fn entry_bytes(key_len: usize, value_len: usize) -> usize {
    4 + 2 + key_len + value_len
}

/// Whether a node ends after the entry with this key.
///
/// `node_bytes` is the sum of [`entry_bytes`] of the node's entries including this one, `entry` that of
/// this one alone: the chance of a border grows with the entry's size, so the mean node size does not
/// depend on what is stored.
#[must_use]
pub fn is_border(level: u8, key: &[u8], entry: usize, node_bytes: usize) -> bool {
    if node_bytes < NODE_MIN_BYTES {
        return false;
    }
    let step = u64::MAX / NODE_MEAN_EXTRA_BYTES;
    node_bytes >= NODE_MAX_BYTES || hash(level, key) < step.saturating_mul(entry as u64)
}

/// FNV-1a over the level and the key, then the finishing mix of SplitMix64.
fn hash(level: u8, key: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut h = key.iter().fold(step(0xcbf2_9ce4_8422_2325, &level), step);
    h = (h ^ h >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ h >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ h >> 31
}
