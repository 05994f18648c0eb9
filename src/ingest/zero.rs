//! Finding blocks of zeros: they become holes of a file and never chunks.

/// Bytes looked at between two decisions; a block that is not zero is usually left after the first.
const STEP_BYTES: usize = 256;

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut steps = bytes.chunks_exact(STEP_BYTES);
    steps.all(|step| or_words(step) == 0) && steps_rest(bytes).iter().all(|byte| *byte == 0)
}

/// The bytes past the last whole step.
fn steps_rest(bytes: &[u8]) -> &[u8] {
    bytes.chunks_exact(STEP_BYTES).remainder()
}

/// All words or-ed together, in eight independent lanes that the compiler puts into vector registers.
fn or_words(step: &[u8]) -> u64 {
    let mut lanes = [0_u64; 8];
    for row in step.chunks_exact(64) {
        for (lane, word) in lanes.iter_mut().zip(row.chunks_exact(8)) {
            *lane |= word.try_into().map_or(1, u64::from_ne_bytes);
        }
    }
    lanes.iter().fold(0, |all, lane| all | lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_is_seen() {
        for len in [0, 1, 7, 63, 64, 255, 256, 257, 1000, 4096] {
            let mut bytes = vec![0_u8; len];
            assert!(is_zero(&bytes), "{len} zeros");
            for at in 0..len {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "a bit at {at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
