//! Names in the mount: times of restore points, and hosts, sources and tags as one safe path component.
//!
//! A time is UTC and free of colons, `2026-11-21T07-30-00Z`, which every file server can carry.
//! A name is escaped so that it reads well and comes back: `/` becomes `+`; `+`, `%`, control bytes, what
//! SMB forbids (`" * : < > ? \ |`), bytes that are not UTF-8, and a dot or space at the end become `%XX`;
//! the empty name becomes `%`. So the source `/usr/share` is `+usr+share`. A name that would be longer than
//! 255 bytes is cut and ends in `%~` and a hash of the whole: it stays unique but does not come back.

use jiff::Timestamp;
use repo_format::{MAX_NAME_BYTES, Time};

const HASH_CHARS: usize = 16;

/// The name of a restore point of this time, without the number that tells points of one second apart.
#[must_use]
pub fn time_name(time: Time) -> String {
    match Timestamp::from_second(time.sec) {
        Ok(stamp) => stamp.strftime("%Y-%m-%dT%H-%M-%SZ").to_string(),
        // Beyond the years -9999 to 9999.
        Err(_) => format!("{}s", time.sec),
    }
}

/// The safe path component of a host, source or tag name.
#[must_use]
pub fn escape(name: &[u8]) -> String {
    if name.is_empty() {
        return "%".to_string();
    }
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_char(&mut out, c));
        chunk.invalid().iter().for_each(|b| push_escape(&mut out, *b));
    }
    if let Some(last @ ('.' | ' ')) = out.chars().next_back() {
        out.pop();
        push_escape(&mut out, last as u8);
    }
    if out.len() > MAX_NAME_BYTES { shorten(&out, name) } else { out }
}

fn push_char(out: &mut String, c: char) {
    match c {
        '/' => out.push('+'),
        '+' | '%' | '"' | '*' | ':' | '<' | '>' | '?' | '\\' | '|' | '\0'..='\x1f' | '\x7f' => {
            push_escape(out, c as u8)
        }
        _ => out.push(c),
    }
}

fn push_escape(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from(DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0')));
    }
}

fn shorten(escaped: &str, name: &[u8]) -> String {
    let room = MAX_NAME_BYTES - HASH_CHARS - 2;
    let mut end = (0..=room).rev().find(|at| escaped.is_char_boundary(*at)).unwrap_or(0);
    // No escape is cut in the middle.
    if let Some(percent) = escaped.get(..end).and_then(|kept| kept.rfind('%')).filter(|at| at + 3 > end) {
        end = percent;
    }
    let hash = blake3::hash(name).to_hex();
    format!("{}%~{}", escaped.get(..end).unwrap_or_default(), hash.get(..HASH_CHARS).unwrap_or_default())
}

/// The name that [`escape`] made this component of; None for components it does not make and for cut ones.
#[must_use]
pub fn unescape(component: &str) -> Option<Vec<u8>> {
    if component == "%" {
        return Some(Vec::new());
    }
    let mut out = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => out.push(b'/'),
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = after;
            }
            other => out.push(*other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_read_well() {
        let rows: [(&[u8], &str); 12] = [
            (b"web1.example.org", "web1.example.org"),
            (b"/usr/share", "+usr+share"),
            (b"usr/share", "usr+share"),
            (b"", "%"),
            (b".", "%2E"),
            (b"..", ".%2E"),
            (b"/", "+"),
            (b"a+b %", "a%2Bb %25"),
            (b"C:\\Users ", "C%3A%5CUsers%20"),
            ("b\u{fc}ro".as_bytes(), "b\u{fc}ro"),
            (b"\xff\xfe", "%FF%FE"),
            (b"a\nb\0", "a%0Ab%00"),
        ];
        for (name, component) in rows {
            assert_eq!(escape(name), component);
            assert_eq!(unescape(component).as_deref(), Some(name));
        }
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) = (escape(&[b'/'; 400]), escape(&[b'/'; 401]));
        assert!(a.len() <= 255 && b.len() <= 255 && a != b);
        assert!(escape(&[0xff; 300]).len() <= 255 && escape("\u{fc}".repeat(300).as_bytes()).len() <= 255);
        assert_eq!(unescape(&a), None);
    }

    #[test]
    fn times_have_no_colon() {
        let at = |sec| time_name(Time { sec, nsec: 999_999_999 });
        assert_eq!(at(0), "1970-01-01T00-00-00Z");
        assert_eq!(at(1_795_246_200), "2026-11-21T07-30-00Z");
        assert_eq!(at(-1), "1969-12-31T23-59-59Z");
        assert_eq!(at(i64::MAX), format!("{}s", i64::MAX));
    }

    proptest! {
        #[test]
        fn names_come_back_and_are_safe(name in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"/.+% a".to_vec())], 0..60)) {
            let component = escape(&name);
            prop_assert!(!component.is_empty() && component != "." && component != "..");
            prop_assert!(!component.contains(['/', '\0', ':', '\\']));
            prop_assert_eq!(unescape(&component), Some(name));
        }
    }
}
