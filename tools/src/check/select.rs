//! Which packages a check reads: all, a part, or those that nobody has read for long.

use relict::cli::text;
use relict::store::{Health, PackageInfo};
use relict::{Error, ErrorKind, Result};
use repo_format::PackageId;
use std::time::Duration;

/// What of the content is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Selection {
    /// Nothing: structure only.
    Nothing,
    /// Everything.
    All,
    /// Part `n` of `t`, 1 to t: every package is in exactly one part, and stays in it.
    Part(u64, u64),
    /// So many hundredths of the stored bytes, those verified longest ago.
    Percent(f64),
    /// So many stored bytes, those verified longest ago.
    Bytes(u64),
    /// What was not verified for so many seconds.
    OlderThan(i64),
}

impl Selection {
    /// `n/t`, `x%` or a size.
    pub fn parse_subset(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(
                ErrorKind::Usage,
                format!("'{}' is no part of a repository", text::escape_lines(text).trim_end()),
            )
            .advise("give '3/7' for the third of seven parts, '5%', or a size as '2G'")
        };
        if let Some((n, t)) = text.split_once('/') {
            let (n, t): (u64, u64) = (n.parse().map_err(|_| wrong())?, t.parse().map_err(|_| wrong())?);
            return if n >= 1 && n <= t { Ok(Self::Part(n, t)) } else { Err(wrong()) };
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| wrong())?;
            return if percent > 0.0 && percent <= 100.0 { Ok(Self::Percent(percent)) } else { Err(wrong()) };
        }
        text::parse_size(text).ok().filter(|bytes| *bytes > 0).map(Self::Bytes).ok_or_else(wrong)
    }

    /// The packages to be read, those verified longest ago first.
    pub fn choose(self, packages: &[PackageInfo], health: &Health, now_sec: i64) -> Vec<PackageInfo> {
        let mut out: Vec<PackageInfo> = packages.to_vec();
        // A time in the future is a clock that jumped: it vouches for nothing.
        let verified = |id: &PackageId| health.verified.get(id).copied().filter(|t| *t <= now_sec);
        match self {
            Self::Nothing => out.clear(),
            Self::All | Self::Percent(_) | Self::Bytes(_) => {}
            Self::Part(n, t) => out.retain(|p| part_of(&p.id, t) == n),
            Self::OlderThan(age) => out.retain(|p| verified(&p.id).is_none_or(|at| now_sec - at >= age)),
        }
        // None comes before every time. The number keeps the order of writing, which is that of the disk.
        out.sort_by_key(|p| (verified(&p.id), p.number));
        let total: u64 = packages.iter().map(|p| p.bytes).fold(0, u64::saturating_add);
        match self {
            Self::Percent(percent) => until(&mut out, (total as f64 * percent / 100.0).ceil() as u64),
            Self::Bytes(bytes) => until(&mut out, bytes),
            _ => {}
        }
        out
    }
}

/// The part, 1 to `parts`, that a package belongs to: ids are random, so parts are about equal.
fn part_of(id: &PackageId, parts: u64) -> u64 {
    id.0.first_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b)) % parts + 1
}

/// Keeps packages from the front until they have at least so many bytes.
fn until(packages: &mut Vec<PackageInfo>, bytes: u64) {
    let mut sum = 0;
    packages.retain(|p| {
        let more = sum < bytes;
        sum += p.bytes;
        more
    });
}

/// The time of the oldest verification among `packages`: None when one of them never was.
pub fn oldest(packages: &[PackageInfo], health: &Health) -> Option<i64> {
    let times: Option<Vec<i64>> = packages.iter().map(|p| health.verified.get(&p.id).copied()).collect();
    times.and_then(|times| times.into_iter().min())
}

/// A span of time: a number and one of `s m h d w`, e.g. `30d`.
pub fn parse_span(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::new(ErrorKind::Usage, format!("'{}' is no span of time", text::escape_lines(text).trim_end()))
            .advise("give a number and one of s, m, h, d, w, as '30d' or '90m'")
    };
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo_format::PackageKind;

    fn packages() -> Vec<PackageInfo> {
        let package = |number: u32| {
            let id = PackageId([number as u8 * 37; 16]);
            PackageInfo { number, id, kind: PackageKind::Data, sealed: true, bytes: 100 }
        };
        (0..7).map(package).collect()
    }

    fn numbers(selection: Selection, health: &Health) -> Vec<u32> {
        selection.choose(&packages(), health, 1000).iter().map(|p| p.number).collect()
    }

    #[test]
    fn parts_are_a_partition() {
        let mut all: Vec<u32> = (1..=3).flat_map(|n| numbers(Selection::Part(n, 3), &Health::default())).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_was_verified_longest_ago_comes_first() {
        let mut health = Health::default();
        for (number, time) in [(0, 900), (1, 100), (2, 500), (3, 2000)] {
            health.verified.insert(packages()[number].id, time);
        }
        assert_eq!(
            numbers(Selection::All, &health),
            [3, 4, 5, 6, 1, 2, 0],
            "3 is verified in the future, 4 to 6 never"
        );
        assert_eq!(numbers(Selection::OlderThan(500), &health), [3, 4, 5, 6, 1, 2]);
        assert_eq!(numbers(Selection::Bytes(101), &health), [3, 4]);
        assert_eq!(numbers(Selection::Percent(50.0), &health), [3, 4, 5, 6]);
        assert_eq!(numbers(Selection::Nothing, &health), [0; 0]);
        assert_eq!(oldest(&packages(), &health), None);
        assert_eq!(oldest(&packages()[..3], &health), Some(100));
    }

    #[test]
    fn words() {
        assert_eq!(Selection::parse_subset("2/5").unwrap(), Selection::Part(2, 5));
        assert_eq!(Selection::parse_subset("2.5%").unwrap(), Selection::Percent(2.5));
        assert_eq!(Selection::parse_subset("1M").unwrap(), Selection::Bytes(1 << 20));
        for wrong in ["0/5", "6/5", "1/0", "0%", "101%", "NaN%", "x", "", "-1", "0"] {
            assert_eq!(Selection::parse_subset(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
        assert_eq!(parse_span("30d").unwrap().as_secs(), 30 * 86_400);
        for wrong in ["", "d", "3", "3y", "-3d", "3µ", "99999999999999999999w"] {
            assert_eq!(parse_span(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
    }
}
