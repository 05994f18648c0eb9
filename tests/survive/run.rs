//! A copy of a scene's repository: the operation runs on it, disturbed, and then it is judged as its owner would.

use crate::look::Look;
use crate::operations::{Ends, Operation};
use crate::scene::{Content, NEW_PASSWORD, PASSWORD, Scene, bare, copy, ids, place, program, words};
use crate::walker::{CompareOptions, Manifest, diff, try_manifest};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// The password that a second change of passwords sets.
const THIRD_PASSWORD: &str = "another horse";
/// Of so many repositories in a run of all faults, one is listed and restored by programs.
const BY_PROGRAMS: usize = 8;

/// What a fault did that it must not do. All zero is the promise.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged restore points that are gone.
    pub lost: u64,
    /// Restore points that give other bytes than they must.
    pub wrong: u64,
    /// Errors that were not told.
    pub undetected: u64,
    /// Times that somebody would have to do something by hand.
    pub manual: u64,
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.undetected += other.undetected;
        self.manual += other.manual;
    }
}

/// Where it is told what went wrong.
pub type Say<'a> = &'a mut dyn FnMut(String);

/// A copy of the scene's repository, at a path of its own.
pub struct Run<'s> {
    pub scene: &'s Scene,
    operation: Operation,
    dir: TempDir,
    /// The password that opens it now.
    password: Mutex<&'static str>,
    /// Whether points are listed and restored by the programs, or by the library.
    by_programs: bool,
}

fn by_programs() -> bool {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    !crate::table::all() || RUNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(BY_PROGRAMS)
}

impl<'s> Run<'s> {
    /// A copy to disturb.
    pub fn new(scene: &'s Scene) -> Self {
        Self::of(scene, scene.operation)
    }

    /// A copy to disturb by another operation than the scene's.
    pub fn of(scene: &'s Scene, operation: Operation) -> Self {
        let dir = place();
        copy(&scene.repo(), &dir.path().join("repo"));
        Self { scene, operation, dir, password: Mutex::new(PASSWORD), by_programs: by_programs() }
    }

    /// A repository that is made otherwise, by `make` at the path it is given.
    pub fn made(scene: &'s Scene, make: impl FnOnce(&Path)) -> Self {
        let dir = place();
        make(&dir.path().join("repo"));
        Self { scene, operation: scene.operation, dir, password: Mutex::new(PASSWORD), by_programs: by_programs() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn into_dir(self) -> TempDir {
        self.dir
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn password(&self) -> &'static str {
        *self.password.lock().unwrap()
    }

    pub fn program(&self, name: &str) -> Command {
        program(name, &self.repo(), self.password())
    }

    /// The operation, ready to run, with nothing around it.
    pub fn operation(&self) -> Command {
        let mut command = bare(self.operation.program, &self.repo(), self.password());
        command.args(self.scene.resolved(self.operation.args, self.dir()));
        command
    }

    /// Runs the operation with the faults that `environment` tells.
    pub fn disturbed(&self, environment: &[(&str, &str)]) -> Output {
        let mut command = self.program(self.operation.program);
        command.args(self.scene.resolved(self.operation.args, self.dir()));
        command.env("LD_PRELOAD", crate::shim::library()).env("FAULTS_ROOT", self.repo().canonicalize().unwrap());
        command.envs(environment.iter().copied()).output().unwrap()
    }

    /// Runs the operation undisturbed, and gives the kind and the path of each of its steps.
    pub fn count(&self) -> Vec<(String, String)> {
        let list = self.path("steps");
        let output = self.disturbed(&[("FAULTS_COUNT", list.to_str().unwrap())]);
        assert!(output.status.success(), "{}", words(&output));
        self.steps(&list)
    }

    /// The steps that `FAULTS_COUNT` wrote down, and removes that list.
    pub fn steps(&self, list: &Path) -> Vec<(String, String)> {
        Self::steps_of(list)
    }

    /// As [`Run::steps`], without a scene.
    pub fn steps_of(list: &Path) -> Vec<(String, String)> {
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ').skip(1).map(str::to_owned);
            (words.next().unwrap(), words.next().unwrap())
        };
        // A process that changed nothing has not made it.
        let text = std::fs::read_to_string(list).unwrap_or_default();
        let _ = std::fs::remove_file(list);
        text.lines().map(line).collect()
    }

    /// The ids of the visible points.
    pub fn ids(&self) -> Result<Vec<String>, String> {
        let mut candidates = vec![self.password()];
        if self.operation.keys.is_some() {
            candidates.extend([PASSWORD, NEW_PASSWORD, THIRD_PASSWORD]);
        }
        let mut last = String::new();
        for password in candidates {
            let listed = if self.by_programs {
                ids(&self.repo(), password).map_err(|output| words(&output))
            } else {
                Look::open(&self.repo(), password).map(|look| look.ids())
            };
            match listed {
                Ok(ids) => {
                    *self.password.lock().unwrap() = password;
                    return Ok(ids);
                }
                Err(words) => last = words,
            }
        }
        Err(last)
    }

    /// What points hold of which files are gone.
    pub fn thinned(&self) -> BTreeMap<String, Content> {
        let mut out = BTreeMap::new();
        for id in self.ids().unwrap() {
            let Some(known) = self.scene.known.get(&id) else { continue };
            let (path, target) = (known.content.path.clone(), self.path(&format!("left-{id}")));
            self.restore(None, &id, &path, &target).unwrap();
            let left = try_manifest(&target).unwrap();
            let was = &known.content.manifest;
            let same = left.iter().all(|(path, entry)| was.get(path).is_some_and(|was| was.content == entry.content));
            assert!(same, "thinning gave restore point {id} what it did not hold");
            if left.len() < was.len() {
                out.insert(id, Content { path, manifest: Arc::new(left) });
            }
        }
        out
    }

    /// Restores a path of a point, by the program or by the library.
    fn restore(&self, look: Option<&Look>, id: &str, path: &str, target: &Path) -> Result<(), String> {
        if let Some(look) = look {
            return look.restore(id, path, target);
        }
        let from = format!("{id}:{path}");
        let output = self.program("relict").args(["--quiet", "restore", &from, "-t"]).arg(target).output().unwrap();
        if matches!(output.status.code(), Some(0 | 3)) { Ok(()) } else { Err(words(&output)) }
    }

    /// Looks at the repository as its owner would on the next morning. `done`: the operation said that it was done.
    /// What is wrong is counted, and told to `say`.
    pub fn judge(&self, done: bool, say: Say<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        if done {
            self.judge_passwords(&mut verdict, say);
        }
        if self.operation.broken {
            self.again(&mut verdict, say);
        }
        let first = self.list(&mut verdict, say);
        self.points(&first, done, &mut verdict, say);
        if !self.operation.broken {
            self.again(&mut verdict, say);
        }
        for (name, args, code) in self.operation.then {
            self.must(name, args, &[*code], &mut verdict, say);
        }
        self.must("relict", &["--quiet", "backup", "SOURCE"], &[0], &mut verdict, say);
        self.must("relict-maint", &["check", "--read-data"], &[0], &mut verdict, say);
        let last = self.list(&mut verdict, say);
        self.end(&first, &last, &mut verdict, say);
        verdict
    }

    fn list(&self, verdict: &mut Verdict, say: Say<'_>) -> Vec<String> {
        self.ids().unwrap_or_else(|words| {
            say(format!("the restore points cannot be listed: {words}"));
            verdict.manual += 1;
            Vec::new()
        })
    }

    fn judge_passwords(&self, verdict: &mut Verdict, say: Say<'_>) {
        let Some((old, new)) = self.operation.keys else { return };
        for (password, must) in [(PASSWORD, old), (NEW_PASSWORD, new)] {
            if ids(&self.repo(), password).is_ok() != must {
                say(format!("the password {password:?} opens: {}, and should: {must}", !must));
                verdict.manual += 1;
            }
        }
    }

    /// The operation once more, undisturbed: nobody has to do anything before.
    fn again(&self, verdict: &mut Verdict, say: Say<'_>) {
        let Some((name, args, codes)) = Some((self.operation.program, self.operation.args, self.operation.again))
        else {
            return;
        };
        if self.operation.keys.is_some() && self.ids().is_err() {
            return;
        }
        self.must(name, args, codes, verdict, say);
    }

    pub fn must(&self, name: &str, args: &[&str], codes: &[i32], verdict: &mut Verdict, say: Say<'_>) {
        let args = self.scene.resolved(args, self.dir());
        let output = self.program(name).args(&args).env("RELICT_NEW_PASSWORD", THIRD_PASSWORD).output().unwrap();
        if !output.status.code().is_some_and(|code| codes.contains(&code)) {
            say(format!("{name} {}: {}", args.join(" "), words(&output)));
            verdict.manual += 1;
        }
        if self.operation.keys.is_some() {
            let _ = self.ids();
        }
    }

    /// Every acknowledged point is there, no other one is, and every point that is there is whole.
    fn points(&self, there: &[String], done: bool, verdict: &mut Verdict, say: Say<'_>) {
        let done = done || self.operation.broken;
        for (id, known) in &self.scene.known {
            let (is, may_go) = (there.contains(id), known.goes && !done);
            let must = match self.operation.ends {
                Ends::Shows if known.hidden => done.then_some(true),
                _ if may_go => None,
                _ => Some(!known.hidden && !known.goes),
            };
            if must == Some(true) && !is {
                say(format!("restore point {id} is lost"));
                verdict.lost += 1;
            }
            if must == Some(false) && is {
                say(format!("restore point {id} is shown, and should not be"));
                verdict.wrong += 1;
            }
        }
        let new: Vec<_> = there.iter().filter(|id| !self.scene.known.contains_key(*id)).collect();
        if done && self.operation.ends == Ends::Makes && new.is_empty() {
            say("the restore point that was acknowledged is not there".to_owned());
            verdict.lost += 1;
        }
        if new.len() > self.scene.new.len() {
            say(format!("{} restore points are new, {} could be", new.len(), self.scene.new.len()));
            verdict.wrong += 1;
        }
        self.compare(there, done, verdict, say);
    }

    /// Restores points and compares them. `done`: nothing may be there that the operation takes away.
    pub fn compare(&self, there: &[String], done: bool, verdict: &mut Verdict, say: Say<'_>) {
        // What cannot be opened is tried by programs.
        let look = (!self.by_programs).then(|| Look::open(&self.repo(), self.password()).ok()).flatten();
        for (number, id) in there.iter().enumerate() {
            let wants = self.wants(id, done);
            let mut differences = vec!["nobody made it".to_owned()];
            for want in wants {
                let target = self.path(&format!("restored-{number}"));
                let restored = self.restore(look.as_ref(), id, &want.path, &target);
                differences = match restored.and_then(|()| try_manifest(&target).map_err(|error| error.to_string())) {
                    Ok(found) => diff(&want.manifest, &found, &CompareOptions::restored()),
                    Err(words) => vec![words],
                };
                let _ = std::fs::remove_dir_all(&target);
                if differences.is_empty() {
                    break;
                }
            }
            if !differences.is_empty() {
                say(format!("restore point {id}: {}", differences.join("; ")));
                verdict.wrong += 1;
            }
        }
    }

    /// What a point may hold.
    fn wants(&self, id: &str, done: bool) -> Vec<&Content> {
        match self.scene.known.get(id) {
            Some(known) => {
                let before = (!done || known.thinned.is_none()).then_some(&known.content);
                before.into_iter().chain(&known.thinned).collect()
            }
            None => self.scene.new.iter().collect(),
        }
    }

    /// After all that: what was seen first is still there, and what the operation does is done.
    fn end(&self, first: &[String], last: &[String], verdict: &mut Verdict, say: Say<'_>) {
        for (id, known) in &self.scene.known {
            let must = match self.operation.ends {
                Ends::Hides | Ends::Shows => true,
                Ends::Thins => !known.hidden && !known.goes,
                Ends::Makes | Ends::Keeps => !known.hidden,
            };
            if last.contains(id) != must {
                say(format!("restore point {id} is listed at the end: {}, and should be: {must}", !must));
                verdict.lost += u64::from(must);
                verdict.wrong += u64::from(!must);
            }
        }
        for id in first.iter().filter(|id| !last.contains(id) && !self.scene.known.contains_key(*id)) {
            say(format!("restore point {id} was there, and is lost"));
            verdict.lost += 1;
        }
        // What `then` has brought back, what was mended, and what is left, is whole, too.
        if !self.operation.then.is_empty() || self.operation.broken || self.operation.ends == Ends::Thins {
            let known: Vec<String> = last.iter().filter(|id| self.scene.known.contains_key(*id)).cloned().collect();
            self.compare(&known, true, verdict, say);
        }
    }

    /// Restores every acknowledged point from a damaged repository. Files that come out otherwise than they went in, and
    /// that `restore` did not name.
    pub fn wrong_bytes(&self, say: Say<'_>) -> u64 {
        let mut wrong = 0;
        for (number, (id, known)) in self.scene.known.iter().enumerate() {
            let (target, want) = (self.path(&format!("damaged-{number}")), &known.content.manifest);
            let from = format!("{id}:{}", known.content.path);
            let output = self.program("relict").args(["--json", "restore", &from, "-t"]).arg(&target).output().unwrap();
            let words = words(&output);
            if !matches!(output.status.code(), Some(0..=3 | 10 | 12)) || words.contains("panicked") {
                say(format!("restore: {words}"));
                wrong += 1;
            }
            let found = if target.is_dir() { try_manifest(&target).unwrap() } else { Manifest::new() };
            let differs = |path: &[u8]| found.get(path).is_some_and(|entry| entry.content != want[path].content);
            let named = |path: &[u8]| words.contains(&*String::from_utf8_lossy(path));
            let missing = want.keys().any(|path| !found.contains_key(path));
            let silent: Vec<_> = want.keys().filter(|path| differs(path) && !named(path)).collect();
            if !silent.is_empty() || (missing && output.status.success()) {
                say(format!("restore point {id} gives wrong bytes in {silent:?}, or lacks files: {words}"));
                wrong += 1;
            }
        }
        wrong
    }

    /// Whether `check --read-data` finds nothing.
    pub fn check_is_content(&self) -> bool {
        self.program("relict-maint").args(["check", "--read-data"]).output().unwrap().status.success()
    }
}
