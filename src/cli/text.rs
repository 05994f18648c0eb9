//! Words and numbers for terminals: names that cannot give commands to a terminal, sizes, counts, times.

pub use crate::catalog::points::printable as escape;
use crate::error::{Error, ErrorKind, Result};
use repo_format::Time;
use std::time::Duration;

/// As [`escape`], of a path.
#[must_use]
pub fn escape_path(path: &std::path::Path) -> String {
    escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

/// As [`escape`], but line ends stay: for our own sentences, which may quote names.
#[must_use]
pub fn escape_lines(text: &str) -> String {
    text.split('\n').map(|line| escape(line.as_bytes())).collect::<Vec<_>>().join("\n")
}

/// What a command ends with that met a directory more than once. It was looked into once.
#[must_use]
pub fn stands_twice(path: &[u8]) -> Error {
    let shown = escape(if path.is_empty() { b"/" } else { path });
    Error::damaged(format!("the restore point is damaged: directory {shown} stands in more than one place"))
        .advise("what is in it was shown once; 'relict-maint check' names what else is wrong")
}

/// Bytes with a binary unit: `1.3 GiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        // 1023.95 would be shown as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A count with thousands apart: `78,611`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `count` and a noun in the right number: `1 file`, `3 files`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    let many = if number == 1 { "" } else { "s" };
    format!("{} {noun}{many}", count(number))
}

/// A span of time: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
#[must_use]
pub fn span(time: Duration) -> String {
    let secs = time.as_secs();
    match secs {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        10..=99 => format!("{secs} s"),
        100..=5999 => format!("{} min {:02} s", secs / 60, secs % 60),
        _ => format!("{} h {:02} min", secs / 3600, secs / 60 % 60),
    }
}

/// A time for tables, UTC: `2026-11-21 10:00:00`.
#[must_use]
pub fn table_time(time: Time) -> String {
    let stamp = jiff::Timestamp::from_second(time.sec);
    stamp.map_or_else(|_| format!("@{}", time.sec), |t| t.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A time for programs: RFC 3339, UTC, with nanoseconds.
#[must_use]
pub fn json_time(time: Time) -> String {
    let stamp = jiff::Timestamp::from_second(time.sec);
    let whole = stamp.map_or_else(|_| format!("@{}", time.sec), |t| t.strftime("%Y-%m-%dT%H:%M:%S").to_string());
    format!("{whole}.{:09}Z", time.nsec)
}

/// Bytes as a JSON string: as they are if they are UTF-8, else as [`escape`] shows them.
#[must_use]
pub fn json_text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| escape(bytes), str::to_owned)
}

/// Permission bits as `ls -l` shows them, with the letter of the type in front.
#[must_use]
pub fn mode(mode: u32) -> String {
    use repo_format::FileKind;
    let kind = match FileKind::from_mode(mode) {
        Some(FileKind::Dir) => 'd',
        Some(FileKind::Symlink) => 'l',
        Some(FileKind::Fifo) => 'p',
        Some(FileKind::Socket) => 's',
        Some(FileKind::Char) => 'c',
        Some(FileKind::Block) => 'b',
        Some(FileKind::File) => '-',
        None => '?',
    };
    let mut out = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// Reads a size: digits, perhaps with a fraction, and perhaps a unit K, M, G or T (powers of 1024; `KiB`,
/// `KB` and lower case mean the same).
///
/// # Errors
/// `Usage` for anything else, and for more than 8 EiB.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || {
        Error::new(ErrorKind::Usage, format!("'{}' is not a size", escape(text.as_bytes())))
            .advise("write a number and perhaps K, M, G or T, such as 256M")
    };
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let unit = unit.trim().to_ascii_uppercase();
    let power = match unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit) {
        "" if unit != "IB" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    let scale = 1024_u64.pow(power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(wrong);
    }
    let value: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = value * scale as f64;
    if bytes < 9.2e18 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Cells that are longer stand out of their column.
const MOST_WIDTH: usize = 120;

/// A table of left-aligned columns (right-aligned where `right` says so), two blanks apart.
#[must_use]
pub fn table(header: &[&str], right: &[bool], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = header.iter().map(|h| width(h)).collect();
    for row in rows {
        // One cell of a megabyte must not make all of that column as wide.
        widths.iter_mut().zip(row).for_each(|(w, cell)| *w = (*w).max(width(cell).min(MOST_WIDTH)));
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, w), right) in cells.zip(&widths).zip(right) {
            let pad = " ".repeat(w.saturating_sub(width(cell)));
            let parts = if *right { [pad.as_str(), cell] } else { [cell, pad.as_str()] };
            text.extend(parts);
            text.push_str("  ");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&mut header.iter().copied());
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_reaches_the_terminal_as_a_command() {
        assert_eq!(escape(b"plain \xc3\xa4 name"), "plain \u{e4} name");
        assert_eq!(escape(b"\x1b]0;x\x07"), "\\x1b]0;x\\x07");
        assert_eq!(escape(b"a\nb\x7f"), "a\\x0ab\\x7f");
        assert_eq!(escape(b"\xff\xc3"), "\\xff\\xc3");
        assert_eq!(escape("\u{9b}31m".as_bytes()), "\\xc2\\x9b31m");
        assert_eq!(escape("gpj\u{202e}.exe".as_bytes()), "gpj\\xe2\\x80\\xae.exe");
        assert_eq!(escape_lines("a\n\x1bb"), "a\n\\x1bb");
    }

    #[test]
    fn sizes_read() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("64K", 65_536),
            ("64k", 65_536),
            ("64KiB", 65_536),
            ("64 KB", 65_536),
            ("1.5M", 1_572_864),
            ("2G", 2 << 30),
            ("1T", 1 << 40),
            ("12B", 12),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "K", "-1", "1X", "1.2.3", "IB", "1iB", "99999999999T", "1e3", "nan"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_counts_shown() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
        assert_eq!(count(78_611), "78,611");
        assert_eq!(count(100), "100");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(span(Duration::from_millis(450)), "0.5 s");
        assert_eq!(span(Duration::from_secs(185)), "3 min 05 s");
        assert_eq!(span(Duration::from_secs(7800)), "2 h 10 min");
    }

    #[test]
    fn modes_shown() {
        assert_eq!(mode(0o100_644), "-rw-r--r--");
        assert_eq!(mode(0o104_755), "-rwsr-xr-x");
        assert_eq!(mode(0o041_776), "drwxrwxrwT");
        assert_eq!(mode(0o120_777), "lrwxrwxrwx");
    }

    #[test]
    fn tables_align() {
        let rows = vec![vec!["a".into(), "12".into()], vec!["bcd".into(), "3".into()]];
        assert_eq!(table(&["id", "n"], &[false, true], &rows), "id    n\na    12\nbcd   3\n");
    }
}
