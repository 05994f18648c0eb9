//! Faults in parallel, and the table that comes of it.

use crate::rig::Random;
use crate::run::Verdict;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often a row says how far it is.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Whether every fault is to be caused, or a sample of them.
pub fn all() -> bool {
    std::env::var_os("RELICT_SURVIVE").is_some()
}

/// A number that the environment may set for a run of all faults.
pub fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The jobs in any order; in `make test` only `some` of them. So whatever ends early has seen a fair sample.
pub fn sample<J>(mut jobs: Vec<J>, some: usize, random: &mut Random) -> Vec<J> {
    for at in (1..jobs.len()).rev() {
        jobs.swap(at, random.below(at as u64 + 1) as usize);
    }
    if !all() {
        jobs.truncate(some);
    }
    jobs
}

/// Runs `fault` for every job, on all processors, and prints one row; fails unless all that must be zero is.
/// `fault` gets the job and where to say what went wrong. With `RELICT_SURVIVE_BUDGET`, stops after so many seconds: the
/// row has the number of those that were run.
pub fn row<J: Sync + std::fmt::Debug>(
    name: &str,
    jobs: &[J],
    fault: impl Fn(&J, &mut dyn FnMut(String)) -> Verdict + Sync,
) {
    row_of(name, jobs, |_| 1, fault);
}

/// As [`row`], where a job is several faults: `faults` says how many.
pub fn row_of<J: Sync + std::fmt::Debug>(
    name: &str,
    jobs: &[J],
    faults: impl Fn(&J) -> usize + Sync,
    fault: impl Fn(&J, &mut dyn FnMut(String)) -> Verdict + Sync,
) {
    assert!(!jobs.is_empty(), "{name}: there is nothing to do");
    let budget = if all() { setting("RELICT_SURVIVE_BUDGET", usize::MAX) } else { usize::MAX };
    let begun = Instant::now();
    let told = Mutex::new(begun);
    let (next, ran) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (total, complaints) = (Mutex::new(Verdict::default()), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if begun.elapsed() > Duration::from_secs(budget as u64) {
                break;
            }
            let mut say = |words: String| complaints.lock().unwrap().push(format!("{name}, {job:?}: {words}"));
            let verdict = fault(job, &mut say);
            *total.lock().unwrap() += verdict;
            ran.fetch_add(faults(job), Ordering::Relaxed);
            let mut told = told.lock().unwrap();
            if told.elapsed() > HEARTBEAT {
                *told = Instant::now();
                eprintln!("{name}: {} of {} jobs", next.load(Ordering::Relaxed).min(jobs.len()), jobs.len());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(worker)));
    });
    let Verdict { lost, wrong, undetected, manual } = total.into_inner().unwrap();
    let line = format!("| {name} | {} | {lost} | {wrong} | {undetected} | {manual} |", ran.into_inner());
    println!("{line}");
    if let Some(path) = std::env::var_os("RELICT_SURVIVE_TABLE") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::io::Write::write_all(&mut &file, format!("{line}\n").as_bytes()).unwrap();
    }
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    assert_eq!(Verdict { lost, wrong, undetected, manual }, Verdict::default());
}
