//! Every call that changes a file fails, once and from then on: the operation says so, and nothing is lost.

use crate::operations::Operation;
use crate::rig::Random;
use crate::run::{Run, Say, Verdict};
use crate::scene::Scene;
use crate::table;
use std::collections::HashSet;

/// Failures of one operation in `make test`.
const SOME: usize = 8;
/// `ENOSPC`, `EIO`, `EDQUOT`, `EROFS`, and a short write.
const ERRORS: [i32; 5] = [28, 5, 122, 30, 0];

#[derive(Debug, Clone)]
struct Failure {
    step: usize,
    kind: String,
    path: String,
    errno: i32,
    sticky: bool,
    /// The file has bytes that are not durable yet.
    pending: bool,
    /// The steps before it and after it, so that whoever reads of a failure knows where it is.
    around: String,
}

impl Failure {
    /// Whether the promise of durability hangs on this step: then it must not be told to have been kept.
    fn is_a_promise(&self) -> bool {
        let data = self.path.starts_with("/packages") || (self.path.starts_with("/db") && self.path.ends_with(".log"));
        self.kind == "sync" && data && self.pending && self.errno != 0
    }
}

fn failures(steps: &[(String, String)]) -> Vec<Failure> {
    let mut all = Vec::new();
    // Files with bytes that no sync has made durable yet: only of those can a sync keep or break a promise. (To drop a
    // package's pages, clean ones are needed, and a check asks for that; whether it is done, nothing hangs on.)
    let mut dirty: HashSet<&str> = HashSet::new();
    for (at, (kind, path)) in steps.iter().enumerate() {
        for (errno, sticky) in ERRORS.iter().flat_map(|errno| [(*errno, false), (*errno, true)]) {
            if errno != 0 || kind == "write" {
                let near = &steps[at.saturating_sub(5)..(at + 4).min(steps.len())];
                let around = near.iter().map(|(kind, path)| format!("{kind} {path}")).collect::<Vec<_>>().join(", ");
                let pending = dirty.contains(path.as_str());
                all.push(Failure {
                    step: at + 1,
                    kind: kind.clone(),
                    path: path.clone(),
                    errno,
                    sticky,
                    pending,
                    around,
                });
            }
        }
        match kind.as_str() {
            "write" => drop(dirty.insert(path)),
            "sync" => drop(dirty.remove(path.as_str())),
            _ => {}
        }
    }
    all
}

fn fails(operation: Operation) {
    let mut random = Random::from_env();
    let scene = Scene::new(operation, &mut random);
    let jobs = table::sample(failures(&Run::new(&scene).count()), SOME, &mut random);
    table::row(&format!("I/O fails: {}", operation.name), &jobs, |failure, say| one(&scene, failure, say));
}

fn one(scene: &Scene, failure: &Failure, say: Say<'_>) -> Verdict {
    let run = Run::new(scene);
    let (at, errno) = (failure.step.to_string(), failure.errno.to_string());
    let mut environment = vec![("FAULTS_FAIL", at.as_str()), ("FAULTS_ERRNO", &errno)];
    if failure.sticky {
        environment.push(("FAULTS_STICKY", "1"));
    }
    let output = run.disturbed(&environment);
    let mut verdict = Verdict::default();
    let words = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    if !matches!(code, Some(0..=3)) || words.contains("panicked") || (code != Some(0) && words.trim().is_empty()) {
        say(format!("ended with {}: {words}", output.status));
        verdict.undetected += 1;
    }
    if code == Some(0) && failure.is_a_promise() {
        say(format!("a sync failed, and the operation said that it was done; around it: {}", failure.around));
        verdict.undetected += 1;
    }
    verdict += run.judge(code == Some(0), say);
    verdict
}

mod at {
    use crate::operations::{operations, tests};
    operations!(tests crate::errors::fails);
}
