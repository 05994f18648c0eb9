//! Every call that changes a file fails, once and from then on: the operation says so, and nothing is lost.

use crate::operations::Operation;
use crate::rig::Random;
use crate::run::{Run, Say, Verdict};
use crate::scene::Scene;
use crate::table;
use std::collections::HashMap;

/// Failures of one operation in `make test`.
const SOME: usize = 8;
/// `ENOSPC`, `EIO`, `EDQUOT`, `EROFS`, and a short write.
const ERRORS: [i32; 5] = [28, 5, 122, 30, 0];

#[derive(Debug, Clone)]
struct Failure {
    step: usize,
    errno: i32,
    sticky: bool,
}

fn failures(steps: &[(String, String)]) -> Vec<Failure> {
    let mut all = Vec::new();
    for (at, (kind, _)) in steps.iter().enumerate() {
        for (errno, sticky) in ERRORS.iter().flat_map(|errno| [(*errno, false), (*errno, true)]) {
            if errno != 0 || kind == "write" {
                all.push(Failure { step: at + 1, errno, sticky });
            }
        }
    }
    all
}

/// In an order in which each step fails in one way before any fails in another: a run that is cut short has seen all steps.
fn every_step_first(jobs: Vec<Failure>) -> Vec<Failure> {
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut rounds = Vec::new();
    for job in jobs {
        let round = seen.entry(job.step).or_default();
        rounds.push((*round, job));
        *round += 1;
    }
    // Stable: in each round the steps stay in any order.
    rounds.sort_by_key(|(round, _)| *round);
    rounds.into_iter().map(|(_, job)| job).collect()
}

/// Whether a promise of durability hangs on the last of these steps: then it must not be told to have been kept. It does
/// when the step syncs a package or the database's log, and that file has bytes which no sync has made durable. (To drop
/// a package's pages, clean ones are needed, and a check asks for that; whether it is done, nothing hangs on.)
fn is_a_promise(steps: &[(String, String)]) -> bool {
    let Some(((kind, path), before)) = steps.split_last() else { return false };
    let data = path.starts_with("/packages") || (path.starts_with("/db") && path.ends_with(".log"));
    let last = before.iter().rfind(|(kind, other)| other == path && matches!(kind.as_str(), "write" | "sync"));
    kind == "sync" && data && last.is_some_and(|(kind, _)| kind == "write")
}

fn fails(operation: Operation) {
    let mut random = Random::from_env();
    let scene = Scene::new(operation, &mut random);
    let jobs = every_step_first(table::sample(failures(&Run::new(&scene).count()), SOME, &mut random));
    table::row(&format!("I/O fails: {}", operation.name), &jobs, |failure, say| one(&scene, failure, say));
}

fn one(scene: &Scene, failure: &Failure, say: Say<'_>) -> Verdict {
    let run = Run::new(scene);
    let (at, errno) = (failure.step.to_string(), failure.errno.to_string());
    let list = run.path("steps");
    let mut environment =
        vec![("FAULTS_FAIL", at.as_str()), ("FAULTS_ERRNO", &errno), ("FAULTS_COUNT", list.to_str().unwrap())];
    if failure.sticky {
        environment.push(("FAULTS_STICKY", "1"));
    }
    let output = run.disturbed(&environment);
    let mut steps = run.steps(&list);
    steps.truncate(failure.step);
    let failed = steps.len() == failure.step;
    // Threads come in another order each time: what failed is told by this run, not by the one that counted.
    let around = &steps[steps.len().saturating_sub(6)..];
    let say: Say<'_> = &mut |what| say(format!("{what}; the steps up to the one that failed: {around:?}"));
    let mut verdict = Verdict::default();
    let words = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    if !matches!(code, Some(0..=3)) || words.contains("panicked") || (code != Some(0) && words.trim().is_empty()) {
        say(format!("ended with {}: {words}", output.status));
        verdict.undetected += 1;
    }
    // What stood in a log that is gone was written to other files first.
    let relied_on = steps.last().is_some_and(|(_, path)| run.repo().join(path.trim_start_matches('/')).exists());
    if code == Some(0) && failed && failure.errno != 0 && is_a_promise(&steps) && relied_on {
        say("a sync failed, and the operation said that it was done".into());
        verdict.undetected += 1;
    }
    verdict += run.judge(code == Some(0), say);
    verdict
}

mod at {
    use crate::operations::{operations, tests};
    operations!(tests crate::errors::fails);
}
