//! Which restore points a policy keeps, and why: `forget` is made of it. No clock: times count from the newest point of
//! a group, so a clock that is wrong today removes nothing. (That the newest one is not from the future sees `forget`.)

use super::points::Points;
use super::thin::VersionRule;
use crate::error::{Error, ErrorKind, Result};
use jiff::Span;
use jiff::tz::TimeZone;
use repo_format::{PointRecord, Time};
use std::collections::BTreeMap;
use std::str::FromStr;

/// Periods of which a policy keeps the newest point each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// Every point is a period of its own.
    Last,
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// ISO weeks.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Period {
    /// The period in which `time` lies, in UTC, as it is shown; `number` tells points apart for [`Period::Last`].
    fn name(self, time: Time, number: usize) -> String {
        let Ok(stamp) = jiff::Timestamp::from_second(time.sec) else { return format!("@{}", time.sec) };
        let at = stamp.to_zoned(TimeZone::UTC);
        match self {
            Self::Last => format!("{number}"),
            Self::Hourly => at.strftime("%Y-%m-%dT%H").to_string(),
            Self::Daily => at.strftime("%Y-%m-%d").to_string(),
            Self::Weekly => at.strftime("%G-W%V").to_string(),
            Self::Monthly => at.strftime("%Y-%m").to_string(),
            Self::Yearly => at.strftime("%Y").to_string(),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// A length of time as people write it: `90d`, `1y6m`, `2w`, `12h`. Years and months are those of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Age {
    years: i64,
    months: i64,
    days: i64,
    hours: i64,
}

impl FromStr for Age {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(
                ErrorKind::Usage,
                format!("'{}' is not a length of time", super::points::printable(text.as_bytes())),
            )
            .advise("write it like 90d, 2w, 12h or 1y6m: numbers, each with y, m, w, d or h behind it")
        };
        let (mut out, mut digits) = (Self::default(), String::new());
        for c in text.chars() {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            let number = digits.parse::<i64>().ok().filter(|n| *n <= 100_000).ok_or_else(wrong)?;
            let field = match c {
                'y' => &mut out.years,
                'm' => &mut out.months,
                'w' | 'd' => &mut out.days,
                'h' => &mut out.hours,
                _ => return Err(wrong()),
            };
            *field += if c == 'w' { number * 7 } else { number };
            digits.clear();
        }
        if digits.is_empty() && out != Self::default() { Ok(out) } else { Err(wrong()) }
    }
}

impl Age {
    /// The moment this long before `time`; the beginning of time where the calendar ends.
    #[must_use]
    pub fn before(&self, time: Time) -> i64 {
        let span = Span::new().try_years(self.years).and_then(|s| s.try_months(self.months));
        let span = span.and_then(|s| s.try_days(self.days)).and_then(|s| s.try_hours(self.hours));
        let stamp = jiff::Timestamp::from_second(time.sec).map(|t| t.to_zoned(TimeZone::UTC));
        let earlier = stamp.and_then(|at| span.and_then(|span| at.checked_sub(span)));
        earlier.map_or(i64::MIN, |at| at.timestamp().as_second())
    }
}

/// What to keep. A point is kept when one rule wants it.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The newest point of each of the last N periods; None: of all of them.
    pub counts: Vec<(Period, Option<u32>)>,
    /// The newest point of each period within this time before the newest point of the group.
    pub within: Vec<(Period, Age)>,
    /// All points with one of these tags.
    pub tags: Vec<Vec<u8>>,
    /// Points whose id begins so, in lower case.
    pub ids: Vec<String>,
    /// Points that no other rule keeps are kept, without the files' contents that this rule lets go.
    pub versions: Option<VersionRule>,
}

/// A point and the rules that keep it; without one it goes.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The point.
    pub point: PointRecord,
    /// Why it stays, for people.
    pub reasons: Vec<String>,
}

impl Policy {
    /// Whether there is no rule at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let names = self.tags.is_empty() && self.ids.is_empty();
        names && self.counts.is_empty() && self.within.is_empty() && self.versions.is_none()
    }

    /// Decides about the points of one group; newest first.
    #[must_use]
    pub fn decide(&self, points: Vec<PointRecord>) -> Vec<Decision> {
        let points = Points::new(points);
        let mut out: Vec<Decision> =
            points.all().iter().rev().map(|point| Decision { point: point.clone(), reasons: Vec::new() }).collect();
        for (period, most) in &self.counts {
            keep_newest(&mut out, *period, most.map_or(usize::MAX, |n| n as usize), i64::MIN, "");
        }
        let newest = out.first().map(|decision| decision.point.time);
        for (period, age) in &self.within {
            let since = newest.map_or(i64::MIN, |newest| age.before(newest));
            keep_newest(&mut out, *period, usize::MAX, since, "within ");
        }
        for decision in &mut out {
            let point = &decision.point;
            let tags = self.tags.iter().filter(|tag| point.tags.contains(tag));
            let tags: Vec<String> = tags.map(|tag| format!("tag {}", super::points::printable(tag))).collect();
            let id = point.id.to_string();
            let ids = self.ids.iter().filter(|digits| id.starts_with(*digits)).map(|digits| format!("id {digits}"));
            let ids: Vec<String> = ids.collect();
            decision.reasons.extend(tags.into_iter().chain(ids));
        }
        out
    }
}

/// Of each period, newest first, keeps the newest point, for `most` periods and not before `since`.
fn keep_newest(points: &mut [Decision], period: Period, most: usize, since: i64, how: &str) {
    let (mut last, mut kept) = (None, 0);
    for (number, decision) in points.iter_mut().enumerate() {
        let name = period.name(decision.point.time, number);
        if last.as_ref() == Some(&name) || decision.point.time.sec < since {
            continue;
        }
        if kept == most {
            return;
        }
        kept += 1;
        let shown = if period == Period::Last { String::new() } else { format!(" {name}") };
        decision.reasons.push(format!("{how}{}{shown}", period.word()));
        last = Some(name);
    }
}

/// Points by host, source and paths: each group is a chain, in which a path means one file.
#[must_use]
pub fn chains(points: Vec<PointRecord>) -> Vec<Vec<PointRecord>> {
    let mut out = BTreeMap::<_, Vec<PointRecord>>::new();
    for point in points {
        out.entry((point.host.clone(), point.source.clone(), point.paths.clone())).or_default().push(point);
    }
    out.into_values().map(|chain| Points::new(chain).all().to_vec()).collect()
}

/// Points by host and source.
#[must_use]
pub fn groups(points: Vec<PointRecord>) -> BTreeMap<(Vec<u8>, Vec<u8>), Vec<PointRecord>> {
    let mut out = BTreeMap::<_, Vec<PointRecord>>::new();
    for point in points {
        out.entry((point.host.clone(), point.source.clone())).or_default().push(point);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use repo_format::{ChunkId, Counts, PointId, RepoId, SourceKind};
    use std::collections::BTreeSet;

    /// 2026-11-21T10-00-00Z, a Saturday.
    const T: i64 = 1_795_255_200;

    fn point(id: u8, sec: i64) -> PointRecord {
        PointRecord {
            repo: RepoId::default(),
            id: PointId([id; 16]),
            time: Time { sec, nsec: 0 },
            sealed: Time { sec, nsec: 0 },
            root: ChunkId::default(),
            next_ino: 2,
            kind: SourceKind::Dir,
            host: b"h".to_vec(),
            source: b"s".to_vec(),
            parent: None,
            counts: Counts::default(),
            paths: vec![],
            tags: if id.is_multiple_of(7) { vec![b"seven".to_vec()] } else { vec![] },
            file_systems: vec![],
            notes: vec![],
            program: vec![],
            extra: vec![],
        }
    }

    fn kept(policy: &Policy, times: &[i64]) -> Vec<u8> {
        let points = (1..).zip(times).map(|(id, sec)| point(id, *sec)).collect();
        let mut out: Vec<u8> =
            policy.decide(points).into_iter().filter(|d| !d.reasons.is_empty()).map(|d| d.point.id.0[0]).collect();
        out.sort_unstable();
        out
    }

    fn count(period: Period, n: u32) -> Policy {
        Policy { counts: vec![(period, Some(n))], ..Policy::default() }
    }

    const HOUR: i64 = 3600;
    const DAY: i64 = 86_400;

    #[test]
    fn the_newest_of_each_period_stays() {
        let times = [T - 40 * DAY, T - 8 * DAY, T - DAY - HOUR, T - DAY, T - HOUR, T - 60, T];
        assert_eq!(kept(&count(Period::Last, 2), &times), [6, 7]);
        // 09:59 and 10:00 are two hours.
        assert_eq!(kept(&count(Period::Hourly, 2), &times), [6, 7]);
        assert_eq!(kept(&count(Period::Daily, 2), &times), [4, 7]);
        assert_eq!(kept(&count(Period::Daily, 9), &times), [1, 2, 4, 7]);
        assert_eq!(kept(&count(Period::Weekly, 2), &times), [2, 7]);
        assert_eq!(kept(&count(Period::Monthly, 9), &times), [1, 7]);
        assert_eq!(kept(&count(Period::Yearly, 9), &times), [7]);
        assert_eq!(kept(&count(Period::Daily, 0), &times), [] as [u8; 0]);
        let all = Policy { counts: vec![(Period::Daily, None)], ..Policy::default() };
        assert_eq!(kept(&all, &times), [1, 2, 4, 7]);
    }

    #[test]
    fn ages_count_from_the_newest_point() {
        let times = [T - 40 * DAY, T - 8 * DAY, T - DAY - HOUR, T - DAY, T];
        let within = |period, age: &str| Policy { within: vec![(period, age.parse().unwrap())], ..Policy::default() };
        assert_eq!(kept(&within(Period::Last, "25h"), &times), [3, 4, 5]);
        assert_eq!(kept(&within(Period::Last, "24h"), &times), [4, 5]);
        assert_eq!(kept(&within(Period::Daily, "1w1d"), &times), [2, 4, 5]);
        assert_eq!(kept(&within(Period::Last, "1m"), &times), [2, 3, 4, 5]);
        assert_eq!(kept(&within(Period::Last, "2m"), &times), [1, 2, 3, 4, 5]);
        for wrong in ["", "d", "3", "3x", "-3d", "3d4", "0d", "99999999999999999999d"] {
            assert!(wrong.parse::<Age>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_and_ids_and_reasons() {
        let times: Vec<i64> = (0..14).map(|n| T + n * DAY).collect();
        let policy = Policy { tags: vec![b"seven".to_vec()], ids: vec!["0303".into()], ..count(Period::Last, 1) };
        assert_eq!(kept(&policy, &times), [3, 7, 14]);
        let points = (1..).zip(&times).map(|(id, sec)| point(id, *sec)).collect();
        assert_eq!(policy.decide(points)[0].reasons, ["last", "tag seven"]);
        assert!(Policy::default().is_empty() && !policy.is_empty());
    }

    proptest! {
        /// Against the plainest definition: of the distinct periods in descending order, the first N.
        #[test]
        fn counts_agree_with_sets(times in proptest::collection::vec(0..4000_i64, 1..40), n in 0..12_u32, which in 0..5_usize) {
            let period = [Period::Hourly, Period::Daily, Period::Weekly, Period::Monthly, Period::Yearly][which];
            let times: BTreeSet<i64> = times.into_iter().map(|hours| T + hours * HOUR).collect();
            let times: Vec<i64> = times.into_iter().collect();
            let name = |sec: i64| period.name(Time { sec, nsec: 0 }, 0);
            let periods: BTreeSet<String> = times.iter().map(|sec| name(*sec)).collect();
            let chosen: BTreeSet<String> = periods.into_iter().rev().take(n as usize).collect();
            let want: Vec<u8> = (1..).zip(&times).filter(|(id, sec)| {
                chosen.contains(&name(**sec)) && times.iter().skip(usize::from(*id)).all(|later| name(*later) != name(**sec))
            }).map(|(id, _)| id).collect();
            prop_assert_eq!(kept(&count(period, n), &times), want);
        }
    }
}
