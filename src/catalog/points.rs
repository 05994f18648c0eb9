//! Choosing restore points: what people type (`latest~1`, an id, a date) and what a chain needs (the
//! newest point of the same source). Names of points made from their time are formatted here.

use crate::error::{Error, ErrorKind, Result};
use repo_format::{PointRecord, Time};

/// Fewest digits of an id that count as an id.
pub const MIN_ID_DIGITS: usize = 4;
/// Most points that an error lists.
const LISTED: usize = 8;

/// The name of a time: UTC, to the second, without colons: `2026-11-21T10-00-00Z`.
///
/// A time outside of the years that have such a name is `@` and its seconds since 1970.
#[must_use]
pub fn time_name(time: Time) -> String {
    let stamp = jiff::Timestamp::from_second(time.sec).ok();
    match stamp.filter(|t| t.as_second() >= -62_135_596_800) {
        Some(stamp) => stamp.strftime("%Y-%m-%dT%H-%M-%SZ").to_string(),
        None => format!("@{}", time.sec),
    }
}

/// Which points may be chosen. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this host.
    pub host: Option<Vec<u8>>,
    /// Only of this source.
    pub source: Option<Vec<u8>>,
    /// Only with all of these tags.
    pub tags: Vec<Vec<u8>>,
}

impl Filter {
    /// Whether `point` may be chosen.
    #[must_use]
    pub fn admits(&self, point: &PointRecord) -> bool {
        self.host.as_ref().is_none_or(|h| *h == point.host)
            && self.source.as_ref().is_none_or(|s| *s == point.source)
            && self.tags.iter().all(|t| point.tags.contains(t))
    }

    fn is_empty(&self) -> bool {
        self.host.is_none() && self.source.is_none() && self.tags.is_empty()
    }
}

/// Restore points, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Points(Vec<PointRecord>);

impl Points {
    /// Sorts `records` by time taken, then time sealed, then id.
    #[must_use]
    pub fn new(mut records: Vec<PointRecord>) -> Self {
        records.sort_by_key(|p| (p.time, p.sealed, p.id));
        Self(records)
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> &[PointRecord] {
        &self.0
    }

    /// The points that `filter` admits, oldest first.
    pub fn filtered<'a, 'f>(
        &'a self,
        filter: &'f Filter,
    ) -> impl DoubleEndedIterator<Item = &'a PointRecord> + use<'a, 'f> {
        self.0.iter().filter(|p| filter.admits(p))
    }

    /// The newest point of this host and source with the same paths: what the next backup compares with.
    #[must_use]
    pub fn chain_head(&self, host: &[u8], source: &[u8], paths: &[Vec<u8>]) -> Option<&PointRecord> {
        self.0.iter().rev().find(|p| p.host == host && p.source == source && p.paths == paths)
    }

    /// The one point that `expression` means, among those that `filter` admits:
    ///
    /// * `latest`: the newest;
    /// * four or more digits of an id (no dash in them, so `2026` is an id and never a year);
    /// * a time `2026-11-21T10-00-00Z` or its beginning from the month on (`2026-11`, `2026-11-21T10`): the
    ///   newest point that is not after the end of the month, day, hour, minute or second named. Colons
    ///   may stand for the dashes;
    /// * `today`, `yesterday`, `now`, `-7d`, `-36h` and the like ([`time_limit`]): the newest point not after it;
    /// * any of these with `~N` behind: the N-th point before it.
    ///
    /// # Errors
    /// `NotFound` when nothing fits; `Usage` when the expression has no meaning, or more than one point
    /// has the id's digits or that very second. The candidates are in the advice.
    pub fn resolve(&self, expression: &str, filter: &Filter) -> Result<&PointRecord> {
        self.resolve_at(expression, filter, clock())
    }

    /// As [`Points::resolve`], with the time that counts as now.
    ///
    /// # Errors
    /// As [`Points::resolve`].
    pub fn resolve_at(&self, expression: &str, filter: &Filter, now: Time) -> Result<&PointRecord> {
        let (base, back) = split_back(expression)?;
        let points: Vec<&PointRecord> = self.filtered(filter).collect();
        if points.is_empty() {
            return Err(self.nothing(filter));
        }
        let at = match Base::parse(base) {
            Some(Base::Latest) => points.len() - 1,
            Some(Base::Id(digits)) => by_id(&points, &digits, expression)?,
            Some(Base::Time(name)) => by_time(&points, &name, expression)?,
            None => match relative_limit(base, now) {
                Some(limit) => before(&points, limit, base)?,
                None => return Err(meaningless(expression)),
            },
        };
        let found = at.checked_sub(back).and_then(|i| points.get(i)).copied();
        found.ok_or_else(|| too_far_back(base, back, at))
    }

    /// The two points of a comparison. `new` may be any; `old` is looked for in the chain of `new`, and everywhere
    /// when it is an id: `latest~1` is then the point before `latest`, not one of another source.
    ///
    /// # Errors
    /// As [`Points::resolve`].
    pub fn resolve_pair(
        &self,
        old: &str,
        new: &str,
        filter: &Filter,
        now: Time,
    ) -> Result<(&PointRecord, &PointRecord)> {
        let new = self.resolve_at(new, filter, now)?;
        let chain =
            Filter { host: Some(new.host.clone()), source: Some(new.source.clone()), tags: filter.tags.clone() };
        let is_id = matches!(split_back(old), Ok((base, _)) if matches!(Base::parse(base), Some(Base::Id(_))));
        Ok((self.resolve_at(old, if is_id { filter } else { &chain }, now)?, new))
    }

    fn nothing(&self, filter: &Filter) -> Error {
        if self.0.is_empty() {
            return Error::new(ErrorKind::NotFound, "the repository has no restore points yet")
                .advise("make one with 'relict backup PATH'");
        }
        debug_assert!(!filter.is_empty());
        Error::new(ErrorKind::NotFound, "no restore point has this host, source and tag")
            .advise("'relict snapshots' lists what there is")
    }
}

/// A point expression without its `~N`.
#[derive(Debug, PartialEq, Eq)]
enum Base {
    Latest,
    Id(String),
    /// A time name or the beginning of one.
    Time(String),
}

impl Base {
    fn parse(text: &str) -> Option<Self> {
        let hex = |c: char| c.is_ascii_digit() || matches!(c, 'a'..='f' | 'A'..='F');
        if text == "latest" {
            Some(Self::Latest)
        } else if text.len() >= MIN_ID_DIGITS && text.len() <= 32 && text.chars().all(hex) {
            Some(Self::Id(text.to_ascii_lowercase()))
        } else {
            time_prefix(text).map(Self::Time)
        }
    }
}

/// The first second, since 1970, that is after what an expression of time means; None for what is none.
///
/// * `2026-11-21T10-00-00Z` or its beginning from the month on: the end of that second, minute, hour, day or month;
/// * `now`; `today` and `yesterday`: the end of that day;
/// * `-7d`, `-36h`, `-90min`, `-2w`: so long before now;
/// * `@GMT-2026.11.21-10.00.00`, as Windows names a previous version: the end of that second.
///
/// All of it is UTC, as the names of restore points are: a path means the same to everyone who shares a mount,
/// wherever they sit, and what a listing shows can be typed.
#[must_use]
pub fn time_limit(expression: &str, now: Time) -> Option<i64> {
    relative_limit(expression, now).or_else(|| match expression.strip_prefix("@GMT-") {
        Some(_) => period_end(&gmt_name(expression)?),
        None => period_end(&time_prefix(expression)?),
    })
}

/// The time name behind Windows' name of a previous version, `@GMT-YYYY.MM.DD-HH.MM.SS`.
fn gmt_name(token: &str) -> Option<String> {
    const SHAPE: &[u8] = b"@GMT-0000.00.00-00.00.00";
    let fits = |(c, shape): (u8, &u8)| if *shape == b'0' { c.is_ascii_digit() } else { c == *shape };
    let fields = token.get(5..).filter(|_| token.len() == SHAPE.len() && token.bytes().zip(SHAPE).all(fits))?;
    let (date, time) = fields.split_once('-')?;
    Some(format!("{}T{}Z", date.replace('.', "-"), time.replace('.', "-")))
}

fn relative_limit(expression: &str, now: Time) -> Option<i64> {
    const DAY: i64 = 86_400;
    let today = now.sec.div_euclid(DAY).checked_mul(DAY)?;
    match expression {
        "now" => now.sec.checked_add(1),
        "today" => today.checked_add(DAY),
        "yesterday" => Some(today),
        _ => {
            let ago = expression.strip_prefix('-')?;
            let unit = ago.find(|c: char| !c.is_ascii_digit())?;
            let (number, unit) = ago.split_at(unit);
            let secs = match unit {
                "min" => 60,
                "h" => 3600,
                "d" => DAY,
                "w" => 7 * DAY,
                _ => return None,
            };
            now.sec.checked_sub(number.parse::<i64>().ok()?.checked_mul(secs)?)?.checked_add(1)
        }
    }
}

/// The first second after the period that the beginning of a time name stands for.
fn period_end(name: &str) -> Option<i64> {
    use jiff::{Span, civil::DateTime, tz::TimeZone};
    let field = |at: usize, len: usize| name.get(at..at + len).and_then(|digits| digits.parse::<i16>().ok());
    let small = |at: usize, default: i8| match name.len() > at {
        true => i8::try_from(field(at, 2)?).ok(),
        false => Some(default),
    };
    let start =
        DateTime::new(field(0, 4)?, small(5, 1)?, small(8, 1)?, small(11, 0)?, small(14, 0)?, small(17, 0)?, 0).ok()?;
    let one = Span::new();
    let period = match name.len() {
        7 => one.months(1),
        10 => one.days(1),
        13 => one.hours(1),
        16 => one.minutes(1),
        _ => one.seconds(1),
    };
    let end = start.checked_add(period).ok()?;
    TimeZone::UTC.to_timestamp(end).ok().map(jiff::Timestamp::as_second)
}

/// The newest point before the second `limit`.
fn before(points: &[&PointRecord], limit: i64, expression: &str) -> Result<usize> {
    points.partition_point(|p| p.time.sec < limit).checked_sub(1).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no restore point is from '{expression}' or before"))
            .advise(listing("the oldest is", points.first().copied().into_iter()))
    })
}

fn clock() -> Time {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: since.as_secs().cast_signed(), nsec: since.subsec_nanos() }
}

/// `text` as the beginning of a time name, if it is one that ends between two fields.
fn time_prefix(text: &str) -> Option<String> {
    const SHAPE: &[u8] = b"0000-00-00T00-00-00Z";
    const ENDS: [usize; 6] = [7, 10, 13, 16, 19, 20];
    let name = text.replace(':', "-");
    let fits = |(c, shape): (u8, &u8)| if *shape == b'0' { c.is_ascii_digit() } else { c == *shape };
    (ENDS.contains(&name.len()) && name.bytes().zip(SHAPE).all(fits)).then_some(name)
}

fn split_back(expression: &str) -> Result<(&str, usize)> {
    match expression.split_once('~') {
        None => Ok((expression, 0)),
        Some((base, "")) => Ok((base, 1)),
        Some((base, back)) => match back.parse() {
            Ok(back) => Ok((base, back)),
            Err(_) => Err(meaningless(expression)),
        },
    }
}

fn by_id(points: &[&PointRecord], digits: &str, expression: &str) -> Result<usize> {
    let mut fits = (0..points.len()).filter(|i| points.get(*i).is_some_and(|p| p.id.to_string().starts_with(digits)));
    match (fits.next(), fits.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(two)) => {
            let all = [one, two].into_iter().chain(fits).filter_map(|i| points.get(i).copied());
            Err(ambiguous(expression, all))
        }
        (None, _) => {
            Err(Error::new(ErrorKind::NotFound, format!("no restore point has an id that begins with '{digits}'"))
                .advise("'relict snapshots' lists the ids"))
        }
    }
}

fn by_time(points: &[&PointRecord], name: &str, expression: &str) -> Result<usize> {
    // '~' sorts after everything in a name: the end of the period named.
    let limit = format!("{name}~");
    let not_after = points.partition_point(|p| time_name(p.time) < limit);
    let Some(newest) = not_after.checked_sub(1) else {
        return Err(Error::new(ErrorKind::NotFound, format!("no restore point is from {name} or before"))
            .advise(listing("the oldest is", points.first().copied().into_iter())));
    };
    let same: Vec<_> =
        points.iter().copied().filter(|p| name.len() >= 19 && time_name(p.time).starts_with(name)).collect();
    if same.len() > 1 { Err(ambiguous(expression, same.into_iter())) } else { Ok(newest) }
}

fn ambiguous<'a>(expression: &str, points: impl Iterator<Item = &'a PointRecord>) -> Error {
    Error::new(ErrorKind::Usage, format!("'{expression}' means more than one restore point"))
        .advise(listing("give more digits of the id of the one you mean:", points))
}

fn listing<'a>(lead: &str, points: impl Iterator<Item = &'a PointRecord>) -> String {
    let all: Vec<_> = points.collect();
    let mut out = lead.to_owned();
    for point in all.iter().take(LISTED) {
        let (host, source) = (printable(&point.host), printable(&point.source));
        out.push_str(&format!("\n  {} {} {host} {source}", short_id(point), time_name(point.time)));
    }
    if all.len() > LISTED {
        out.push_str(&format!("\n  and {} more", all.len() - LISTED));
    }
    out
}

/// `bytes` as text for people. Control characters, characters that turn the direction of writing, and what
/// is not UTF-8 become `\xNN`, byte by byte: a name from a repository is data, never an instruction to a terminal.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            if harmless(c) {
                out.push(c);
            } else {
                hex(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        hex(&mut out, part.invalid());
    }
    out
}

fn harmless(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    !c.is_control() && !turns
}

fn hex(out: &mut String, bytes: &[u8]) {
    bytes.iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
}

/// The eight digits by which a point is shown.
#[must_use]
pub fn short_id(point: &PointRecord) -> String {
    point.id.to_string().chars().take(8).collect()
}

fn too_far_back(base: &str, back: usize, have: usize) -> Error {
    let what = format!("there is no restore point {back} before '{base}', only {have}");
    Error::new(ErrorKind::NotFound, what).advise("'relict snapshots' lists them")
}

fn meaningless(expression: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("'{}' does not name a restore point", printable(expression.as_bytes()))).advise(
        "use 'latest', 'latest~1', four or more digits of an id, a time such as 2026-11-21 or 2026-11-21T10-00-00Z, \
         'yesterday', or '-7d'",
    )
}

/// Splits `POINT[:PATH]`: the point's expression and the path bytes, if there are any.
///
/// The path begins behind the first colon, but for the colons of a time (`2026-11-21T10:00:00Z`).
#[must_use]
pub fn split_path(argument: &[u8]) -> (String, Option<&[u8]>) {
    let colons = (0..argument.len()).filter(|i| argument.get(*i) == Some(&b':'));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    for at in colons {
        let (head, rest) = argument.split_at(at);
        let path = rest.get(1..).unwrap_or_default();
        // Two digits behind a time's hour or minute are more of the time.
        let more_time =
            time_prefix(&text(head)).is_some_and(|t| t.len() >= 13) && matches!(path, [b'0'..=b'9', b'0'..=b'9', ..]);
        if !more_time {
            return (text(head), Some(path));
        }
    }
    (text(argument), None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use repo_format::{ChunkId, Counts, PointId, RepoId, SourceKind};

    fn point(id: u8, sec: i64, host: &str) -> PointRecord {
        let mut bytes = [0xab; 16];
        bytes[2] = id;
        PointRecord {
            repo: RepoId::default(),
            id: PointId(bytes),
            time: Time { sec, nsec: 5 },
            sealed: Time::default(),
            root: ChunkId::default(),
            next_ino: 2,
            kind: SourceKind::Dir,
            host: host.into(),
            source: b"s".to_vec(),
            parent: None,
            counts: Counts::default(),
            paths: vec![],
            tags: vec![],
            file_systems: vec![],
            notes: vec![],
            program: vec![],
            extra: vec![],
        }
    }

    /// 2026-11-21T10-00-00Z.
    const T: i64 = 1_795_255_200;

    fn points() -> Points {
        Points::new(vec![point(3, T + 86_400, "b"), point(1, T, "a"), point(2, T + 60, "a"), point(4, T + 60, "b")])
    }

    fn found(expression: &str) -> u8 {
        points().resolve(expression, &Filter::default()).unwrap().id.0[2]
    }

    #[test]
    fn names_of_times() {
        assert_eq!(time_name(Time { sec: T, nsec: 999_999_999 }), "2026-11-21T10-00-00Z");
        assert_eq!(time_name(Time { sec: -1, nsec: 0 }), "1969-12-31T23-59-59Z");
        assert_eq!(time_name(Time { sec: i64::MIN, nsec: 0 }), format!("@{}", i64::MIN));
    }

    #[test]
    fn expressions_that_mean_one_point() {
        assert_eq!(found("latest"), 3);
        assert_eq!(found("latest~"), 4);
        assert_eq!(found("latest~3"), 1);
        assert_eq!(found("abab02"), 2);
        assert_eq!(found("ABAB02~1"), 1);
        assert_eq!(found("2026-11-21T10-00-00Z"), 1);
        assert_eq!(found("2026-11-21T10:00:00Z"), 1);
        assert_eq!(found("2026-11-21T10-00-59"), 1);
        assert_eq!(found("2026-11-21T10-00"), 1);
        assert_eq!(found("2026-11-22"), 3);
        assert_eq!(found("2030-01"), 3);
    }

    #[test]
    fn expressions_that_do_not() {
        let kind = |e: &str| points().resolve(e, &Filter::default()).unwrap_err().kind();
        for usage in ["", "abc", "newest", "latest~x", "abab", "2026-11-21T10-01-00Z", "2026-1", "20-11-21"] {
            assert_eq!(kind(usage), ErrorKind::Usage, "{usage}");
        }
        for missing in ["latest~4", "beef", "2026-11-20", "2026"] {
            assert_eq!(kind(missing), ErrorKind::NotFound, "{missing}");
        }
        let error = points().resolve("abab", &Filter::default()).unwrap_err();
        assert!(error.advice().unwrap().contains("abab0"));
        assert!(Points::default().resolve("latest", &Filter::default()).is_err());
    }

    #[test]
    fn expressions_of_time_end_with_their_period() {
        let now = Time { sec: T + 5000, nsec: 0 };
        let day = T - 10 * 3600;
        for (expression, limit) in [
            ("now", T + 5001),
            ("today", day + 86_400),
            ("yesterday", day),
            ("-1d", T + 5001 - 86_400),
            ("-36h", T + 5001 - 36 * 3600),
            ("-90min", T + 5001 - 5400),
            ("-2w", T + 5001 - 14 * 86_400),
            ("2026-11-21", day + 86_400),
            ("2026-11", day + 10 * 86_400),
            ("2026-12", day + 41 * 86_400),
            ("2026-11-21T10", T + 3600),
            ("2026-11-21T10-00", T + 60),
            ("2026-11-21T10:00", T + 60),
            ("2026-11-21T10-00-00", T + 1),
            ("2026-11-21T10-00-00Z", T + 1),
            ("@GMT-2026.11.21-10.00.00", T + 1),
        ] {
            assert_eq!(time_limit(expression, now), Some(limit), "{expression}");
        }
        for none in [
            "",
            "-",
            "-7",
            "-d",
            "-7x",
            "7d",
            "-7D",
            "--7d",
            "-99999999999999999999d",
            "-9223372036854775807w",
            "tomorrow",
            "2026",
            "2026-13",
            "2026-02-30",
            "2026-11-21T25",
            "@GMT-",
            "@GMT-2026.11.21-10.00",
            "@GMT-2026-11-21T10-00-00Z",
            "@GMT-2026.13.21-10.00.00",
            "@GMT-2026.11.21-10.00.00 ",
            "2026-1\u{fc}",
            "latest",
        ] {
            assert_eq!(time_limit(none, now), None, "{none}");
        }
    }

    #[test]
    fn relative_times_mean_points() {
        let now = Time { sec: T + 86_400 + 30, nsec: 0 };
        let points = points();
        let found = |e: &str| points.resolve_at(e, &Filter::default(), now).map(|p| p.id.0[2]).map_err(|e| e.kind());
        assert_eq!((found("today"), found("now"), found("yesterday")), (Ok(3), Ok(3), Ok(4)));
        assert_eq!((found("-1h"), found("-24h"), found("-1d~1")), (Ok(4), Ok(1), Err(ErrorKind::NotFound)));
        assert_eq!((found("-2d"), found("-2y")), (Err(ErrorKind::NotFound), Err(ErrorKind::Usage)));
    }

    #[test]
    fn pairs_are_of_one_chain() {
        let points = points();
        let pair = |old: &str, new: &str| {
            let (old, new) = points.resolve_pair(old, new, &Filter::default(), Time { sec: T, nsec: 0 }).unwrap();
            (old.id.0[2], new.id.0[2])
        };
        assert_eq!(pair("latest~1", "latest"), (4, 3));
        assert_eq!(pair("latest~1", "abab02"), (1, 2));
        assert_eq!(pair("abab01", "abab03"), (1, 3));
        assert!(points.resolve_pair("2026-11-21T10-00", "latest", &Filter::default(), Time::default()).is_err());
    }

    #[test]
    fn filters_come_first() {
        let filter = Filter { host: Some(b"a".to_vec()), ..Filter::default() };
        assert_eq!(points().resolve("latest", &filter).unwrap().id.0[2], 2);
        assert_eq!(points().resolve("2026-11-21T10-01-00Z", &filter).unwrap().id.0[2], 2);
        let nobody = Filter { tags: vec![b"x".to_vec()], ..Filter::default() };
        assert_eq!(points().resolve("latest", &nobody).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(points().chain_head(b"a", b"s", &[]).unwrap().id.0[2], 2);
        assert!(points().chain_head(b"a", b"s", &[b"/etc".to_vec()]).is_none());
    }

    #[test]
    fn arguments_with_paths() {
        let split = |a: &str| {
            let (point, path) = split_path(a.as_bytes());
            (point, path.map(|p| String::from_utf8_lossy(p).into_owned()))
        };
        let both = |point: &str, path: &str| (point.to_owned(), Some(path.to_owned()));
        assert_eq!(split("latest"), ("latest".to_owned(), None));
        assert_eq!(split("latest:/etc/ssh"), both("latest", "/etc/ssh"));
        assert_eq!(split("latest~1:etc:x"), both("latest~1", "etc:x"));
        assert_eq!(split("latest:"), both("latest", ""));
        assert_eq!(split("2026-11-21T10:00:00Z:/a:b"), both("2026-11-21T10:00:00Z", "/a:b"));
        assert_eq!(split("2026-11-21T10:00"), ("2026-11-21T10:00".to_owned(), None));
    }
}
