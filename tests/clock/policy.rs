//! What a policy keeps, written down once more and in another way than the product does it: a day is a number of days, a
//! week begins on Monday, and the calendar is counted, not asked.

/// The policy of these tests: so many of each.
pub const DAILY: usize = 7;
pub const WEEKLY: usize = 5;
pub const MONTHLY: usize = 12;
pub const YEARLY: usize = 3;

/// Which of these times, newest first, are kept.
pub fn keeps(times: &[i64]) -> Vec<bool> {
    let mut kept = vec![false; times.len()];
    type Period = fn(i64) -> i64;
    let rules: [(usize, Period); 4] = [
        (DAILY, day),
        (WEEKLY, |sec| (day(sec) + 3).div_euclid(7)),
        (MONTHLY, |sec| months(day(sec))),
        (YEARLY, |sec| months(day(sec)).div_euclid(12)),
    ];
    for (most, period) in rules {
        let mut seen: Vec<i64> = Vec::new();
        for (index, sec) in times.iter().enumerate() {
            let name = period(*sec);
            if seen.last() != Some(&name) {
                seen.push(name);
                kept[index] |= seen.len() <= most;
            }
        }
    }
    kept
}

fn day(sec: i64) -> i64 {
    sec.div_euclid(86_400)
}

/// Months since January of the year 1970 on a day since then.
fn months(day: i64) -> i64 {
    let (mut year, mut left) = (1970, day);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of = |year: i64| if leap(year) { 366 } else { 365 };
    while left < 0 {
        year -= 1;
        left += days_of(year);
    }
    while left >= days_of(year) {
        left -= days_of(year);
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 0;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    (year - 1970) * 12 + month
}

#[test]
fn the_calendar_is_right() {
    // 2026-11-21T10:00:00Z is a Saturday; 2028-02-29 exists.
    assert_eq!((months(day(1_795_255_200)), (day(1_795_255_200) + 3).rem_euclid(7)), (56 * 12 + 10, 5));
    assert_eq!((months(day(1_835_395_200)), months(day(1_835_481_600))), (58 * 12 + 1, 58 * 12 + 2));
    assert_eq!(months(-1), -1);
}
