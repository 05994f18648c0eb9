//! Time: ten years of daily backups with retention, the clock jumping forward and back, in less than a minute. Backups are
//! made by the library; everything that forgets and removes is the real program under a clock that is moved (clock.c).
//! What must be there is counted by a model that knows the policy and nothing of the product.

mod policy;
#[path = "../support/rig.rs"]
mod rig;
mod world;

use rig::Random;
use world::{DAY, World};

/// 2026-11-21T02:00:00Z.
const BEGIN: i64 = 1_795_226_400;
const YEARS: i64 = 10;

/// What the clock says on each day: mostly the time, and now and then, for some days, something else.
fn clocks(random: &mut Random) -> Vec<i64> {
    let (mut wrong, mut left) = (0, 0);
    let mut out = Vec::new();
    for day in 0..YEARS * 365 {
        if left == 0 {
            wrong = 0;
            if random.below(100) == 0 {
                left = 1 + random.below(12) as i64;
                let by = (1 + random.below(500) as i64) * DAY + random.below(80_000) as i64;
                wrong = if random.below(2) == 0 { by } else { -by };
            }
        } else {
            left -= 1;
        }
        out.push(BEGIN + day * DAY + random.below(3000) as i64 + wrong);
    }
    out
}

#[test]
fn ten_years_of_daily_backups() {
    let mut random = Random::from_env();
    let clocks = clocks(&mut random);
    let mut world = World::new(random, BEGIN);
    let (mut rest, mut rounds, mut doubts, mut refused) = (&clocks[..], 0, 0, 0);
    while !rest.is_empty() {
        let (days, after) = rest.split_at(rest.len().min(20 + world.random.below(30) as usize));
        rest = after;
        world.days(days);
        rounds += 1;
        doubts += u32::from(world.doubtful());
        refused += u32::from(!world.to_come().is_empty());
        if world.random.below(6) == 0 {
            world.protect();
        }
        // Who reads what forget says takes away what is dated wrongly; not everybody does.
        if world.random.below(3) == 0 {
            let to_come = world.to_come();
            world.forget_named(&to_come);
        }
        world.forget();
        world.agrees(false);
        world.prune();
        world.agrees(rounds % 10 == 0 || rest.is_empty());
    }
    println!(
        "{rounds} rounds, {doubts} with a clock in doubt, {refused} with points to come; {} points stay",
        world.points.len()
    );
    assert!(rounds > 70 && doubts > 0 && refused > 0, "the clock did not jump: {rounds}, {doubts}, {refused}");
    // Protection is in the packages: it holds without the database that knew it.
    world.says("relict-maint rebuild", 0);
    world.agrees(true);
    world.forget();
    world.prune();
    world.agrees(true);
    world.says("relict-maint check --read-data", 0);
}

#[test]
fn a_clock_set_back_forgets_nothing_and_says_so() {
    let mut world = World::new(Random::of(1), BEGIN);
    let days: Vec<i64> = (0..40).map(|day| BEGIN + day * DAY).collect();
    world.days(&days);
    world.now = BEGIN - 400 * DAY;
    let text = world.says("relict-maint forget --keep-last 1 --yes", 3);
    for words in
        ["the clock says 2025-10-", "is dated 2026-12-30", "nothing of host:daily was forgotten", "set the clock"]
    {
        assert!(text.contains(words), "'{words}' is not in: {text}");
    }
    world.agrees(true);
    // By name, by who knows what he does.
    let newest = world.to_come()[0].clone();
    world.forget_named(&[newest]);
    world.agrees(true);
    // The right time again: everything is as it should be.
    world.now = BEGIN + 41 * DAY;
    world.forget();
    world.agrees(true);
}

#[test]
fn a_clock_set_forward_opens_no_lock() {
    let mut world = World::new(Random::of(2), BEGIN);
    world.days(&[BEGIN, BEGIN + DAY, BEGIN + 2 * DAY]);
    let ids: Vec<String> = world.points.keys().cloned().collect();
    world.says(&format!("relict-maint protect {} --until 2027-12-31 --yes", ids[0]), 0);
    world.now = BEGIN + 5000 * DAY;
    let text = world.says(&format!("relict-maint forget {} --yes", ids[0]), 2);
    assert!(text.contains("locked until 2027-12-31") && text.contains("the clock says"), "{text}");
    world.agrees(true);
}

#[test]
fn the_clock_of_these_tests_moves_the_programs() {
    let world = World::new(Random::of(3), BEGIN + 3650 * DAY);
    world.says("relict --quiet backup /etc/hostname", 0);
    let text = world.says("relict snapshots", 0);
    assert!(text.contains("2036-11-1"), "{text}");
}
