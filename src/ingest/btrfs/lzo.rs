//! LZO1X, expanded into a buffer of fixed length.
//!
//! Why not by a crate: the data comes from outside, and the pure one there is (lzokay-native, which the tests compare
//! with) panics for references before the start, and has no bound for its output. The format is described in the
//! kernel's Documentation/staging/lzo.rst.

/// Expands `data` into `out` and returns how many bytes there are.
///
/// # Errors
/// A sentence that says why it is not valid, or that `out` is too small.
pub(super) fn expand(data: &[u8], out: &mut [u8]) -> Result<usize, &'static str> {
    let mut lzo = Lzo { data, out, filled: 0 };
    let mut state = lzo.first()?;
    loop {
        let instruction = usize::from(lzo.byte()?);
        let (len, distance, literals) = match instruction {
            0..16 if state == 0 => {
                let len = lzo.long(instruction, 15, 3)?;
                lzo.literals(len)?;
                state = 4;
                continue;
            }
            0..16 => {
                let far = (usize::from(lzo.byte()?) << 2) + (instruction >> 2);
                if state == 4 { (3, far + 2049, instruction & 3) } else { (2, far + 1, instruction & 3) }
            }
            16..32 => {
                let len = lzo.long(instruction & 7, 7, 2)?;
                let word = lzo.word()?;
                let distance = ((instruction & 8) << 11) + (word >> 2);
                if distance == 0 {
                    let is_end = instruction == 17 && word == 0 && lzo.data.is_empty();
                    return if is_end { Ok(lzo.filled) } else { Err("it goes on behind its end") };
                }
                (len, distance + 16_384, word & 3)
            }
            32..64 => {
                let len = lzo.long(instruction & 31, 31, 2)?;
                let word = lzo.word()?;
                (len, (word >> 2) + 1, word & 3)
            }
            _ => {
                let distance = (usize::from(lzo.byte()?) << 3) + ((instruction >> 2) & 7) + 1;
                ((instruction >> 5) + 1, distance, instruction & 3)
            }
        };
        lzo.repeat(len, distance)?;
        lzo.literals(literals)?;
        state = literals;
    }
}

struct Lzo<'a> {
    /// What is not used yet.
    data: &'a [u8],
    out: &'a mut [u8],
    filled: usize,
}

impl Lzo<'_> {
    /// The first byte may stand for literals; returns the state behind it.
    fn first(&mut self) -> Result<usize, &'static str> {
        match self.data.first().copied().map(usize::from) {
            Some(byte @ 18..) => {
                self.byte()?;
                self.literals(byte - 17)?;
                Ok((byte - 17).min(4))
            }
            _ => Ok(0),
        }
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let (byte, rest) = self.data.split_first().ok_or("it is cut")?;
        self.data = rest;
        Ok(*byte)
    }

    fn word(&mut self) -> Result<usize, &'static str> {
        Ok(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// A length of an instruction: `short` plus `base`, or more where `short` is 0: 255 for each zero byte, and the byte
    /// behind them.
    fn long(&mut self, short: usize, most: usize, base: usize) -> Result<usize, &'static str> {
        if short != 0 {
            return Ok(short + base);
        }
        let mut len = base + most;
        loop {
            match self.byte()? {
                0 => len += 255,
                byte => return Ok(len + usize::from(byte)),
            }
        }
    }

    fn literals(&mut self, len: usize) -> Result<(), &'static str> {
        let (from, rest) = self.data.split_at_checked(len).ok_or("it is cut")?;
        let room = self.out.get_mut(self.filled..self.filled + len).ok_or("it expands to too much")?;
        room.copy_from_slice(from);
        self.data = rest;
        self.filled += len;
        Ok(())
    }

    /// Repeats what stands `distance` bytes back; may run into what it writes.
    fn repeat(&mut self, len: usize, distance: usize) -> Result<(), &'static str> {
        let from = self.filled.checked_sub(distance).ok_or("it refers to what is before its start")?;
        if self.filled + len > self.out.len() {
            return Err("it expands to too much");
        }
        for at in from..from + len {
            let byte = self.out.get(at).copied().unwrap_or_default();
            if let Some(place) = self.out.get_mut(self.filled) {
                *place = byte;
            }
            self.filled += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_data_is_refused() {
        let mut out = [0; 64];
        for bad in [
            &[][..],
            &[0],
            &[17],
            &[17, 0],
            &[0, 0, 0],
            &[64, 0],
            &[18, b'x', 255, 255],
            &[32; 9],
            &[17, 0, 0, 1],
            &[16, 0, 0, 0, 0],
        ] {
            assert!(expand(bad, &mut out).is_err(), "{bad:?}");
        }
        assert_eq!(expand(&[17, 0, 0], &mut out), Ok(0));
        assert_eq!(expand(&[20, b'a', b'b', b'c', 17, 0, 0], &mut out), Ok(3));
    }

    proptest! {
        #[test]
        fn what_another_compressor_makes_comes_back(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), 1_usize..400), 1..30),
        ) {
            let plain: Vec<u8> = parts.iter().flat_map(|(part, times)| part.repeat(*times)).collect();
            let data = lzokay_native::compress(&plain).unwrap();
            let mut out = vec![0; plain.len()];
            prop_assert_eq!(expand(&data, &mut out), Ok(plain.len()));
            prop_assert_eq!(&out, &plain);
            prop_assert!(expand(&data, &mut vec![0; plain.len() - 1]).is_err());
        }

        #[test]
        fn any_bytes_end_well(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = [0; 4096];
            let _ = expand(&data, &mut out);
        }
    }
}
