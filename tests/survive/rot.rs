//! Bytes rot: bits flip, and whole files of the repository are lost, emptied, cut, zeroed, or take another's place.
//!
//! No wrong byte may come out: a file is restored as it was, or restore says that it is not. And `check --read-data`
//! reports whatever happened to packages and key slots.

use crate::rig::Random;
use crate::operations::named;
use crate::run::{Run, Verdict};
use crate::scene::Scene;
use crate::table;
use std::path::{Path, PathBuf};

/// Damages in `make test`, and in all.
const SOME: u64 = 60;
const MANY: u64 = 5000;

#[derive(Debug, Clone)]
enum Damage {
    Flip { at: u64, bit: u8 },
    Lost,
    Emptied,
    Cut { at: u64 },
    Zeroed { at: u64, len: u64 },
    Swapped { with: PathBuf },
}

#[derive(Debug, Clone)]
struct Job {
    file: PathBuf,
    damage: Damage,
}

/// The repository's files with their lengths.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push((path.clone(), path.metadata().unwrap().len()));
        }
    }
    all.sort();
    all
}

fn jobs(repo: &Path, random: &mut Random) -> Vec<Job> {
    let files: Vec<_> = files(repo).into_iter().filter(|(_, len)| *len > 0).collect();
    let relative = |path: &Path| path.strip_prefix(repo).unwrap().to_owned();
    let packages: Vec<_> = files.iter().filter(|(path, _)| path.starts_with(repo.join("packages"))).collect();
    let job = |number: u64, random: &mut Random| {
        // Half of all damage meets packages, where the data is.
        let (path, len) = if number.is_multiple_of(2) {
            packages[random.below(packages.len() as u64) as usize]
        } else {
            &files[random.below(files.len() as u64) as usize]
        };
        let at = random.below(*len);
        let damage = match number % 16 {
            0 | 1 => Damage::Zeroed { at: at / 4096 * 4096, len: (len - at / 4096 * 4096).min(4096) },
            2 | 3 => Damage::Cut { at },
            4 => Damage::Swapped { with: relative(&packages[random.below(packages.len() as u64) as usize].0) },
            5 | 6 => Damage::Lost,
            7 => Damage::Emptied,
            _ => Damage::Flip { at, bit: random.below(8) as u8 },
        };
        Job { file: relative(path), damage }
    };
    (0..if table::all() { MANY } else { SOME }).map(|number| job(number, random)).collect()
}

/// Does the damage. False if the file is the same as before, such as zeros that were zeroed.
fn damage(repo: &Path, job: &Job) -> bool {
    let path = repo.join(&job.file);
    let before = std::fs::read(&path).unwrap();
    let mut bytes = before.clone();
    match &job.damage {
        Damage::Flip { at, bit } => bytes[*at as usize] ^= 1 << bit,
        Damage::Lost => {
            std::fs::remove_file(&path).unwrap();
            return true;
        }
        Damage::Emptied => bytes.clear(),
        Damage::Cut { at } => bytes.truncate(*at as usize),
        Damage::Zeroed { at, len } => bytes[*at as usize..(at + len) as usize].fill(0),
        Damage::Swapped { with } => {
            let other = repo.join(with);
            bytes = std::fs::read(&other).unwrap();
            replace(&other, &before);
        }
    }
    replace(&path, &bytes);
    bytes != before
}

/// Sealed packages are read-only; the superuser writes them nevertheless, as a broken disk does.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn rot_is_never_served_and_always_found() {
    let mut random = Random::from_env();
    let scene = Scene::new(named("backup"), &mut random);
    let jobs = jobs(&scene.repo(), &mut random);
    table::row("rot: one file", &jobs, |job, say| {
        let run = Run::new(&scene);
        if !damage(&run.repo(), job) {
            return Verdict::default();
        }
        let mut verdict = Verdict { wrong: run.wrong_bytes(say), ..Verdict::default() };
        let matters = job.file.starts_with("packages") || job.file.starts_with("keys");
        if matters && run.check_is_content() {
            say("check --read-data reported nothing".to_owned());
            verdict.undetected += 1;
        }
        verdict
    });
}
