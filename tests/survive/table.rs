//! Faults in parallel, and the table that comes of it.

use crate::scene::Verdict;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether every fault is to be caused, or a sample of them.
pub fn all() -> bool {
    std::env::var_os("RELICT_SURVIVE").is_some()
}

/// Runs `fault` for every job, on all processors, and prints one row; fails unless all that must be zero is.
/// `fault` gets the job and where to say what went wrong.
pub fn row<J: Sync + std::fmt::Debug>(
    name: &str,
    jobs: &[J],
    fault: impl Fn(&J, &mut dyn FnMut(String)) -> Verdict + Sync,
) {
    let (next, total, complaints) = (AtomicUsize::new(0), Mutex::new(Verdict::default()), Mutex::new(Vec::new()));
    let worker = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut say = |words: String| complaints.lock().unwrap().push(format!("{name}, {job:?}: {words}"));
            let verdict = fault(job, &mut say);
            *total.lock().unwrap() += verdict;
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(worker)));
    });
    let Verdict { lost, wrong, undetected, manual } = total.into_inner().unwrap();
    let line = format!("| {name} | {} | {lost} | {wrong} | {undetected} | {manual} |", jobs.len());
    println!("{line}");
    if let Some(path) = std::env::var_os("RELICT_SURVIVE_TABLE") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::io::Write::write_all(&mut &file, format!("{line}\n").as_bytes()).unwrap();
    }
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    assert_eq!(Verdict { lost, wrong, undetected, manual }, Verdict::default());
}
