//! Bytes rot: bits flip, and whole files of the repository are lost, emptied, cut, zeroed, or take another's place.
//!
//! No wrong byte may come out: a file is restored as it was, or restore says that it is not. And `check --read-data`
//! reports whatever happened to packages and key slots.

use crate::operations::ROTTEN;
use crate::rig::Random;
use crate::run::{Run, Verdict};
use crate::scene::Scene;
use crate::table;
use std::path::{Path, PathBuf};

/// Damages in `make test`; flips at random in all.
const SOME: usize = 60;
const MANY: usize = 5000;

#[derive(Debug, Clone)]
enum Damage {
    Flip {
        at: u64,
        bit: u8,
    },
    Lost,
    Emptied,
    Cut {
        at: u64,
    },
    Zeroed {
        at: u64,
        len: u64,
    },
    Swapped {
        with: PathBuf,
    },
    /// The file as it was before the last backup; of a file that was not there then, nothing.
    Older,
    /// All files of `db/` as they were then: an index that is older than the packages.
    OlderIndex,
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

/// Each file lost, emptied, cut at each 4 KiB, zeroed (each 4 KiB of it, and all), in another's place, and older; and
/// flips at random.
fn jobs(repo: &Path, random: &mut Random) -> Vec<Job> {
    let files: Vec<_> = files(repo).into_iter().filter(|(_, len)| *len > 0).collect();
    let relative = |path: &Path| path.strip_prefix(repo).unwrap().to_owned();
    let mut all = vec![Job { file: "db".into(), damage: Damage::OlderIndex }];
    for (path, len) in &files {
        let mut add = |damage| all.push(Job { file: relative(path), damage });
        [Damage::Lost, Damage::Emptied, Damage::Zeroed { at: 0, len: *len }, Damage::Older]
            .into_iter()
            .for_each(&mut add);
        let reserve = path.ends_with("reserve");
        for at in (0..*len).step_by(4096).filter(|_| !reserve) {
            add(Damage::Cut { at: at.max(1) });
            add(Damage::Zeroed { at, len: (len - at).min(4096) });
        }
        files.iter().filter(|(other, _)| other > path).for_each(|(other, _)| {
            add(Damage::Swapped { with: relative(other) });
        });
    }
    let packages: Vec<_> = files.iter().filter(|(path, _)| path.starts_with(repo.join("packages"))).collect();
    let others: Vec<_> = files.iter().filter(|(path, _)| !path.ends_with("reserve")).collect();
    for number in 0..table::setting("RELICT_SURVIVE_FLIPS", MANY) {
        // Half of all flips meet packages, where the data is.
        let list = if number % 2 == 0 { &packages } else { &others };
        let (path, len) = list[random.below(list.len() as u64) as usize];
        let damage = Damage::Flip { at: random.below(*len), bit: random.below(8) as u8 };
        all.push(Job { file: relative(path), damage });
    }
    table::sample(all, SOME, random)
}

/// Does the damage; `older` is the repository before the last backup. False if the file is the same as before, such as
/// zeros that were zeroed.
fn damage(repo: &Path, older: &Path, job: &Job) -> bool {
    let path = repo.join(&job.file);
    if let Damage::OlderIndex = job.damage {
        std::fs::remove_dir_all(&path).unwrap();
        crate::scene::copy(&older.join("db"), &path);
        return true;
    }
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
        Damage::OlderIndex => unreachable!("done above"),
        Damage::Older => match std::fs::read(older.join(&job.file)) {
            Ok(older) => bytes = older,
            Err(_) => {
                std::fs::remove_file(&path).unwrap();
                return true;
            }
        },
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
    let scene = Scene::new(ROTTEN, &mut random);
    let older = scene.dir.path().join("copy");
    let jobs = jobs(&scene.repo(), &mut random);
    table::row("rot: one file", &jobs, |job, say| {
        let run = Run::new(&scene);
        if !damage(&run.repo(), &older, job) {
            return Verdict::default();
        }
        let mut verdict = Verdict { wrong: run.wrong_bytes(say), ..Verdict::default() };
        let matters = ["packages", "keys", "relict.toml"].iter().any(|name| job.file.starts_with(name));
        if matters && run.check_is_content() {
            say("check --read-data reported nothing".to_owned());
            verdict.undetected += 1;
        }
        verdict
    });
}
