//! Power is lost: what was not synced is lost, torn, or there without what was written before it.
//!
//! The log of an operation's steps is played again up to any step, as a disk could hold it then. Bytes written since
//! the file's last sync are there or not, each write for itself, or in 512-byte parts. Names are changed in order,
//! as journaling file systems do it; those since the directory's last sync may be missing from any of them on.

use crate::operations::{Ends, OPERATIONS, Operation};
use crate::rig::Random;
use crate::run::{Run, Verdict};
use crate::scene::Scene;
use crate::table;
use repo_format::StoreKind;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Replays of one operation in `make test`, and in all.
const SOME: usize = 8;
const MANY: usize = 1000;
const SECTOR: usize = 512;

#[derive(Debug)]
enum Op {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Sync(PathBuf),
    Resize(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeDir(PathBuf),
    Link(PathBuf, PathBuf),
    Punch(PathBuf, u64, u64),
    Extend(PathBuf, u64),
}

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Mixed,
    Torn,
}

#[derive(Debug, Clone, Copy)]
struct Loss {
    /// So many steps were done.
    after: usize,
    fate: Fate,
    seed: u64,
}

/// The records of faults.c.
fn parse(mut log: &[u8]) -> Vec<Op> {
    fn take<'a>(log: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (front, rest) = log.split_at(len);
        *log = rest;
        front
    }
    fn name(log: &mut &[u8]) -> PathBuf {
        let len = u16::from_ne_bytes(take(log, 2).try_into().unwrap());
        PathBuf::from(String::from_utf8(take(log, len.into()).to_vec()).unwrap())
    }
    let mut ops = Vec::new();
    while !log.is_empty() {
        let kind = take(&mut log, 1)[0];
        let (path, other) = (name(&mut log), name(&mut log));
        let mut number = || u64::from_ne_bytes(take(&mut log, 8).try_into().unwrap());
        let (offset, len) = (number(), number());
        ops.push(match kind {
            1 => Op::Create(path),
            2 => Op::Write(path, offset, take(&mut log, len as usize).to_vec()),
            3 => Op::Sync(path),
            4 => Op::Resize(path, len),
            5 => Op::Rename(path, other),
            6 | 8 => Op::Remove(path),
            7 => Op::MakeDir(path),
            9 => Op::Link(path, other),
            10 => Op::Extend(path, offset + len),
            11 => Op::Punch(path, offset, len),
            12 => Op::Exchange(path, other),
            _ => panic!("a record of kind {kind}"),
        });
    }
    ops
}

/// A node of the file system: a file's number, or a directory.
type Names = BTreeMap<PathBuf, Option<usize>>;

/// A file system that is played: its names, and the bytes of its files by number.
#[derive(Clone, Default)]
struct Disk {
    names: Names,
    files: HashMap<usize, Vec<u8>>,
    next: usize,
}

impl Disk {
    fn of(root: &Path) -> Self {
        let mut disk = Self::default();
        disk.read(root);
        disk
    }

    fn read(&mut self, path: &Path) {
        if path.is_dir() {
            self.names.insert(path.to_owned(), None);
            std::fs::read_dir(path).unwrap().for_each(|entry| self.read(&entry.unwrap().path()));
        } else {
            let number = self.create(path);
            self.files.insert(number, std::fs::read(path).unwrap());
        }
    }

    fn create(&mut self, path: &Path) -> usize {
        self.next += 1;
        self.names.insert(path.to_owned(), Some(self.next));
        self.files.insert(self.next, Vec::new());
        self.next
    }

    fn file(&self, path: &Path) -> Option<usize> {
        self.names.get(path).copied().flatten()
    }

    /// Names as an operation on them leaves them. Numbers are given in the order of all creations, done or not.
    fn rename(names: &mut Names, op: &Op, number: Option<usize>) {
        match op {
            Op::Create(path) => drop(names.insert(path.clone(), number)),
            Op::MakeDir(path) => drop(names.insert(path.clone(), None)),
            Op::Remove(path) => drop(names.remove(path)),
            Op::Link(from, to) => {
                let node = names.get(from).copied().flatten();
                names.insert(to.clone(), node);
            }
            Op::Rename(from, to) => {
                let moved = take(names, from);
                put(names, to, moved);
            }
            Op::Exchange(one, other) => {
                let (first, second) = (take(names, one), take(names, other));
                put(names, other, first);
                put(names, one, second);
            }
            _ => {}
        }
    }

    /// What tells this disk from all others.
    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (path, node) in &self.names {
            let name = path.as_os_str().as_encoded_bytes();
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(&[u8::from(node.is_some())]);
            if let Some(number) = node {
                hasher.update(blake3::hash(&self.files[number]).as_bytes());
            }
        }
        hasher.finalize()
    }

    fn write_out(&self, from: &Path, to: &Path) {
        for (path, node) in &self.names {
            let path = to.join(path.strip_prefix(from).unwrap());
            match node {
                None => std::fs::create_dir_all(path).unwrap(),
                // A name in a directory whose own name was lost is lost with it.
                Some(number) if path.parent().unwrap().is_dir() => write_out(&path, &self.files[number]),
                Some(_) => {}
            }
        }
    }
}

/// Writes a file; the reserve's zeros cost nothing.
fn write_out(path: &Path, bytes: &[u8]) {
    if bytes.iter().any(|byte| *byte != 0) {
        std::fs::write(path, bytes).unwrap();
    } else {
        std::fs::File::create(path).unwrap().set_len(bytes.len() as u64).unwrap();
    }
}

/// Takes a name and all below it away, by what is left of each behind it.
fn take(names: &mut Names, root: &Path) -> Names {
    let moved: Vec<_> = names.keys().filter(|path| path.starts_with(root)).cloned().collect();
    moved.into_iter().map(|path| (path.strip_prefix(root).unwrap().to_owned(), names.remove(&path).unwrap())).collect()
}

fn put(names: &mut Names, root: &Path, moved: Names) {
    // Joining nothing would add a slash.
    let place = |rest: PathBuf| if rest.as_os_str().is_empty() { root.to_owned() } else { root.join(rest) };
    names.extend(moved.into_iter().map(|(rest, node)| (place(rest), node)));
}

/// An operation's steps with what each is about: the number of the file it changes, once and for all.
struct Played {
    before: Disk,
    ops: Vec<Op>,
    /// The file that a step creates, writes or syncs.
    files: Vec<Option<usize>>,
}

impl Played {
    fn new(root: &Path, log: &[u8], before: Disk) -> Self {
        let ops = parse(log);
        let mut live = before.clone();
        let mut files = Vec::new();
        for op in &ops {
            let file = match op {
                Op::Create(path) => Some(live.create(path)),
                Op::Write(path, ..)
                | Op::Sync(path)
                | Op::Resize(path, _)
                | Op::Punch(path, ..)
                | Op::Extend(path, _) => live.file(path),
                _ => None,
            };
            Disk::rename(&mut live.names, op, file);
            files.push(file);
        }
        assert!(root.is_absolute() && !ops.is_empty());
        Self { before, ops, files }
    }

    /// The disk after `loss`.
    fn disk(&self, loss: Loss) -> Disk {
        let mut random = Random::of(loss.seed);
        let done = &self.ops[..loss.after];
        let kept_names = self.names_kept(done, loss.fate, &mut random);
        let synced = self.synced(done);
        let mut disk = self.before.clone();
        for (at, op) in done.iter().enumerate() {
            if at < kept_names {
                Disk::rename(&mut disk.names, op, self.files[at]);
            }
            let Some(number) = self.files[at] else { continue };
            let bytes = disk.files.entry(number).or_default();
            let durable = synced.contains(&at);
            let keep = durable
                || match loss.fate {
                    Fate::Lost => false,
                    Fate::Kept => true,
                    Fate::Mixed | Fate::Torn => random.below(2) == 0,
                };
            if keep {
                let torn = !durable && matches!(loss.fate, Fate::Torn);
                apply(bytes, op, torn.then_some(&mut random));
            }
        }
        disk
    }

    /// Up to which step names are changed.
    fn names_kept(&self, done: &[Op], fate: Fate, random: &mut Random) -> usize {
        let mut pending: HashSet<PathBuf> = HashSet::new();
        let mut durable = 0;
        for (at, op) in done.iter().enumerate() {
            match op {
                Op::Sync(path) if self.files[at].is_none() && pending.remove(path) => durable = at,
                Op::Create(path) | Op::Remove(path) | Op::MakeDir(path) => drop(pending.insert(parent(path))),
                Op::Rename(from, to) | Op::Exchange(from, to) | Op::Link(from, to) => {
                    pending.extend([parent(from), parent(to)])
                }
                _ => {}
            }
        }
        match fate {
            Fate::Lost => durable,
            Fate::Kept => done.len(),
            Fate::Mixed | Fate::Torn => durable + random.below((done.len() - durable + 1) as u64) as usize,
        }
    }

    /// The steps whose bytes a later sync made durable.
    fn synced(&self, done: &[Op]) -> HashSet<usize> {
        let mut pending: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut durable = HashSet::new();
        for (at, op) in done.iter().enumerate() {
            let Some(file) = self.files[at] else { continue };
            match op {
                Op::Sync(_) => durable.extend(pending.remove(&file).unwrap_or_default()),
                _ => pending.entry(file).or_default().push(at),
            }
        }
        durable
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap().to_owned()
}

/// Changes a file's bytes as a step does; with `torn`, only some sectors of a write arrive.
fn apply(bytes: &mut Vec<u8>, op: &Op, torn: Option<&mut Random>) {
    let mut put = |at: usize, data: &[u8]| {
        if bytes.len() < at + data.len() {
            bytes.resize(at + data.len(), 0);
        }
        bytes[at..at + data.len()].copy_from_slice(data);
    };
    match (op, torn) {
        (Op::Write(_, at, data), None) => put(*at as usize, data),
        (Op::Write(_, at, data), Some(random)) => {
            // Sectors are the disk's, so the first part may be short.
            let mut at = *at as usize;
            let mut rest = &data[..];
            while !rest.is_empty() {
                let (sector, more) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                if random.below(2) == 0 {
                    put(at, sector);
                }
                (at, rest) = (at + sector.len(), more);
            }
        }
        (Op::Resize(_, len), _) => bytes.resize(*len as usize, 0),
        (Op::Extend(_, len), _) if bytes.len() < *len as usize => bytes.resize(*len as usize, 0),
        (Op::Punch(_, at, len), _) => {
            let (from, to) = ((*at as usize).min(bytes.len()), ((at + len) as usize).min(bytes.len()));
            bytes[from..to].fill(0);
        }
        _ => {}
    }
}

fn loses_power(operation: Operation) {
    let mut random = Random::from_env();
    let scene = Scene::new(operation, &mut random);
    let run = Run::new(&scene);
    let root = run.repo().canonicalize().unwrap();
    let before = Disk::of(&root);
    let log = run.path("log");
    let output = run.disturbed(&[("FAULTS_LOG", log.to_str().unwrap())]);
    assert!(output.status.success(), "{output:?}");
    let played = Played::new(&root, &std::fs::read(log).unwrap(), before);
    assert_same_disk(&played, &root);
    let fates = [Fate::Lost, Fate::Kept, Fate::Mixed, Fate::Torn];
    let count = if table::all() { table::setting("RELICT_SURVIVE_REPLAYS", MANY) } else { SOME };
    // Each at the very end, where the operation has said that it is done; the others anywhere.
    let jobs: Vec<Loss> = (0..count)
        .map(|number| Loss {
            after: if number < 4 { played.ops.len() } else { random.below(played.ops.len() as u64 + 1) as usize },
            fate: fates[number % fates.len()],
            seed: random.next(),
        })
        .collect();
    // Disks that are equal are judged once.
    let judged = Mutex::new(HashSet::new());
    table::row(&format!("power lost: {}", operation.name), &jobs, |loss, say| {
        let (disk, done) = (played.disk(*loss), loss.after == played.ops.len());
        if !judged.lock().unwrap().insert((disk.digest(), done)) {
            return Verdict::default();
        }
        let run = Run::made(&scene, |repo| disk.write_out(&root, repo));
        let verdict = run.judge(done, say);
        if let Some(kept) = std::env::var_os("RELICT_SURVIVE_KEEP").filter(|_| verdict != Verdict::default()) {
            disk.write_out(&root, &Path::new(&kept).join(format!("{}-{}", operation.name, loss.seed)));
        }
        verdict
    });
    println!("{} steps, {} different disks", played.ops.len(), judged.into_inner().unwrap().len());
}

/// The log is whole: with nothing lost, playing it gives the repository that the operation left.
fn assert_same_disk(played: &Played, root: &Path) {
    let kept = played.disk(Loss { after: played.ops.len(), fate: Fate::Kept, seed: 0 });
    let real = Disk::of(root);
    let content = |disk: &Disk| -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        disk.names.iter().map(|(path, node)| (path.clone(), node.map(|number| disk.files[&number].clone()))).collect()
    };
    let (kept, real) = (content(&kept), content(&real));
    let differ: Vec<_> = kept.keys().chain(real.keys()).filter(|path| kept.get(*path) != real.get(*path)).collect();
    assert!(differ.is_empty(), "steps were missed in {differ:?}");
}

mod at {
    use crate::operations::{operations, tests};
    operations!(tests crate::power::loses_power);
}

/// The front of a segment that holds a restore point's record (SPEC.md section 4).
const RECORD: &[u8] = b"RSEG\x03";

/// What chance finds once in a thousand replays: a record that is written before all that it names is durable.
#[test]
fn records_are_written_when_what_they_name_is_durable() {
    let mut random = Random::from_env();
    for operation in OPERATIONS.iter().filter(|operation| operation.ends == Ends::Makes) {
        let scene = Scene::new(*operation, &mut random);
        let run = Run::new(&scene);
        let log = run.path("log");
        let output = run.disturbed(&[("FAULTS_LOG", log.to_str().unwrap())]);
        assert!(output.status.success(), "{output:?}");
        let (mut waiting, mut records) = (BTreeSet::new(), 0);
        for op in parse(&std::fs::read(log).unwrap()) {
            match op {
                Op::Write(path, _, bytes) if bytes.starts_with(RECORD) => {
                    records += 1;
                    assert!(waiting.is_empty(), "{}: {waiting:?} is not durable yet", operation.name);
                    waiting.insert(path);
                }
                // A package's header names nothing and is named by nothing.
                Op::Write(path, at, _) if at > 0 && path.extension().is_some_and(|end| end == "pkg") => {
                    waiting.insert(path);
                }
                Op::Sync(path) => drop(waiting.remove(&path)),
                _ => {}
            }
        }
        // Blobs are the database's, which syncs its log with every batch.
        assert_eq!(records > 0, operation.store == StoreKind::Files, "{}", operation.name);
    }
}
