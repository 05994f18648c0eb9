//! The process is killed before every step it takes, and in the middle of every write.

use crate::rig::Random;
use crate::scene::{OPERATIONS, Operation, Run, Scene};
use crate::table;

/// Kills of one operation in `make test`.
const SOME: usize = 12;

#[derive(Debug, Clone, Copy)]
struct Kill {
    step: usize,
    torn: bool,
}

fn kills(operation: Operation) {
    let mut random = Random::from_env();
    let rounds = if table::all() { 8 } else { 1 };
    for round in 0..rounds {
        let scene = Scene::new(operation, &mut random);
        let steps = Run::new(&scene).count();
        let whole = (1..=steps.len()).map(|step| Kill { step, torn: false });
        let torn = steps.iter().enumerate().filter(|(_, (kind, _))| kind == "write");
        let mut jobs: Vec<Kill> = whole.chain(torn.map(|(at, _)| Kill { step: at + 1, torn: true })).collect();
        if !table::all() {
            while jobs.len() > SOME {
                jobs.swap_remove(random.below(jobs.len() as u64) as usize);
            }
        }
        table::row(&format!("killed: {}, {round}", operation.name), &jobs, |kill, say| {
            let run = Run::new(&scene);
            let at = kill.step.to_string();
            let mut environment = vec![("FAULTS_KILL", at.as_str())];
            if kill.torn {
                environment.push(("FAULTS_TORN", "1"));
            }
            let done = run.disturbed(&environment).status.success();
            run.judge(done, say)
        });
    }
}

#[test]
fn killed_in_the_first_backup() {
    kills(OPERATIONS[0]);
}

#[test]
fn killed_in_a_backup() {
    kills(OPERATIONS[1]);
}

#[test]
fn killed_in_an_unchanged_backup() {
    kills(OPERATIONS[2]);
}

#[test]
fn killed_in_a_backup_after_a_kill() {
    kills(OPERATIONS[3]);
}

#[test]
fn killed_in_a_rebuild() {
    kills(OPERATIONS[4]);
}
