//! The recovery sheet: a key slot on paper (SPEC.md section 3).
//!
//! It holds the slot as it is in `keys/`: the master key wrapped under the password. So who finds the sheet still needs the
//! password, and it may lie where the password may not. It helps when `keys/` is lost, not when the password is forgotten;
//! against that stands a second slot with a password kept elsewhere.

use relict::{Error, ErrorKind, Result};
use repo_format::{KeySlot, check_of};

/// Bytes in a line of the sheet.
const LINE_BYTES: usize = 16;
/// What the text in the QR code begins with; with capitals and digits alone a code is smallest.
const QR_PREFIX: &str = "RELICTKEY1:";
/// No slot is longer; what is longer is not a sheet.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// The lines to be typed in: number, 16 bytes in groups of two, and a check of both.
pub fn lines(slot: &KeySlot) -> Vec<String> {
    let bytes = slot.encode();
    let line = |(number, part): (usize, &[u8])| {
        let groups: Vec<String> = part.chunks(2).map(hex).collect();
        format!("{:>2}: {:<39} - {}", number + 1, groups.join(" "), line_check(number + 1, part))
    };
    bytes.chunks(LINE_BYTES).enumerate().map(line).collect()
}

/// The text of the QR code.
pub fn qr_text(slot: &KeySlot) -> String {
    format!("{QR_PREFIX}{}", hex(&slot.encode()).to_uppercase())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Four digits over a line and its number: finds a typing error, and lines that changed places.
fn line_check(number: usize, part: &[u8]) -> String {
    let mut all = vec![u8::try_from(number).unwrap_or(u8::MAX)];
    all.extend_from_slice(part);
    hex(check_of(&all).get(..2).unwrap_or_default())
}

/// A key slot from what was typed, scanned, or copied: the sheet's lines, the QR code's text, or the file itself.
///
/// # Errors
/// `Usage` with the line that is wrong or missing.
pub fn parse(input: &[u8]) -> Result<KeySlot> {
    if let Ok(slot) = KeySlot::decode(input) {
        return Ok(slot);
    }
    let text = std::str::from_utf8(input).ok().filter(|_| input.len() <= MAX_INPUT_BYTES);
    let text = text.ok_or_else(|| wrong("this is neither a recovery sheet nor a key slot"))?;
    let upper = text.trim().to_uppercase();
    let bytes = match upper.strip_prefix(QR_PREFIX) {
        Some(digits) => unhex(&digits.split_whitespace().collect::<String>())
            .ok_or_else(|| wrong("the QR code's text has characters that are no hexadecimal digits"))?,
        None => typed(text)?,
    };
    KeySlot::decode(&bytes).map_err(|e| {
        wrong(&format!(
            "the lines are right one by one, but together they are no key slot ({e}); is one missing at the end?"
        ))
    })
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::Usage, what.to_owned())
        .advise("nothing was written; the lines of a sheet look like '1: 5245 4c49 ... - ab12'; spaces and capitals do not matter")
}

/// The bytes of the numbered lines, in order of their numbers. Other lines are prose.
fn typed(text: &str) -> Result<Vec<u8>> {
    let mut parts: Vec<(usize, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(':') else { continue };
        let Ok(number) = number.trim().parse::<usize>() else { continue };
        let (digits, check) =
            rest.rsplit_once('-').ok_or_else(|| wrong(&format!("line {number} has no check behind a dash")))?;
        let part = unhex(&digits.split_whitespace().collect::<String>()).ok_or_else(|| {
            wrong(&format!("line {number} has characters that are no hexadecimal digits, or one too few"))
        })?;
        if line_check(number, &part) != check.trim().to_lowercase() {
            return Err(wrong(&format!("line {number} is not as it was printed: its check differs")));
        }
        parts.push((number, part));
    }
    parts.sort();
    parts.dedup();
    if parts.is_empty() {
        return Err(wrong("this is no recovery sheet: it has no numbered lines"));
    }
    for (place, (number, _)) in parts.iter().enumerate() {
        if *number != place + 1 {
            return Err(wrong(&format!("line {} is missing", place + 1)));
        }
    }
    Ok(parts.into_iter().flat_map(|(_, part)| part).collect())
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let digit = |c: u8| (c as char).to_digit(16).map(|d| d as u8);
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use repo_format::{KdfParams, RepoId};

    fn slot(label: &[u8]) -> KeySlot {
        KeySlot {
            repo: RepoId([7; 16]),
            kdf: KdfParams { memory_kib: 64, passes: 1, lanes: 1 },
            salt: *b"0123456789abcdef",
            nonce: [9; 12],
            wrapped: [0xa5; 48],
            label: label.to_vec(),
        }
    }

    #[test]
    fn a_sheet_is_read_back_however_it_was_typed() {
        let slot = slot(b"office");
        let lines = lines(&slot);
        assert_eq!(parse(lines.join("\n").as_bytes()).unwrap(), slot);
        let reversed: Vec<String> = lines.iter().rev().map(|l| l.to_uppercase().replace(' ', "  ")).collect();
        assert_eq!(parse(format!("my notes: none\n{}\n\n", reversed.join("\r\n")).as_bytes()).unwrap(), slot);
        assert_eq!(parse(qr_text(&slot).as_bytes()).unwrap(), slot);
        assert_eq!(parse(format!(" {}\n", qr_text(&slot).to_lowercase()).as_bytes()).unwrap(), slot);
        assert_eq!(parse(&slot.encode()).unwrap(), slot);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let lines = lines(&slot(b""));
        let message = |lines: &[String]| parse(lines.join("\n").as_bytes()).unwrap_err().to_string();
        let mut bad = lines.clone();
        bad[2] = bad[2].replacen("0707", "0708", 1);
        assert_ne!(bad[2], lines[2]);
        assert!(message(&bad).starts_with("line 3 is not as it was printed"), "{}", message(&bad));
        let mut missing = lines.clone();
        missing.remove(3);
        assert!(message(&missing).starts_with("line 4 is missing"));
        assert!(message(&lines[..lines.len() - 1]).contains("missing at the end"));
        let mut swapped = lines.clone();
        swapped[0] = swapped[0].replacen(" 1:", " 2:", 1);
        assert!(message(&swapped).starts_with("line 2 is not as it was printed"));
        for nothing in [&b""[..], b"hello", b"\xff\xfe", b"1: xyz - 0000", b"1: 00"] {
            assert_eq!(parse(nothing).unwrap_err().kind(), ErrorKind::Usage);
        }
    }

    proptest! {
        #[test]
        fn every_slot_survives_paper(label in proptest::collection::vec(any::<u8>(), 0..=255)) {
            let slot = slot(&label);
            prop_assert_eq!(parse(lines(&slot).join("\n").as_bytes()).unwrap(), slot.clone());
            prop_assert_eq!(parse(qr_text(&slot).as_bytes()).unwrap(), slot);
        }

        #[test]
        fn nothing_makes_it_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&input);
        }
    }
}
