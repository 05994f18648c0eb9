//! Random sequences of backups and maintenance against a model that is a map from restore points to files, with a mount
//! that holds files open across them. `RELICT_MODEL_CASES` (default 6) sets how many.

use crate::rig::Rig;
use crate::{exists, listed, maint};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::FileExt;

/// Files of a state: name and which of a few contents.
type Files = BTreeMap<String, u8>;

#[derive(Debug, Clone)]
enum Op {
    /// Files change (number, content; none: removed) and are backed up.
    Backup(Vec<(u8, Option<u8>)>),
    /// Indices are into what there is.
    Forget(prop::sample::Index),
    KeepLast(u8),
    /// Of every file, the last few contents.
    KeepVersions(u8),
    Undelete(prop::sample::Index),
    Protect(prop::sample::Index),
    Unprotect(prop::sample::Index),
    Prune,
    Compact,
    Rebuild,
    /// Mounts, or ends the mount.
    Mount,
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => prop::collection::vec((0..6_u8, prop::option::of(0..5_u8)), 0..5).prop_map(Op::Backup),
        2 => index().prop_map(Op::Forget),
        1 => (1..3_u8).prop_map(Op::KeepLast),
        2 => (1..3_u8).prop_map(Op::KeepVersions),
        2 => index().prop_map(Op::Undelete),
        1 => index().prop_map(Op::Protect),
        1 => index().prop_map(Op::Unprotect),
        3 => Just(Op::Prune),
        2 => Just(Op::Compact),
        1 => Just(Op::Rebuild),
        1 => Just(Op::Mount),
    ]
}

/// Contents of very different lengths that share nothing, so that points share chunks exactly when they share files.
fn content(which: u8) -> Vec<u8> {
    let len = [0, 700, 30_000, 300_000, 2_000_000][usize::from(which)];
    let mut out = Vec::with_capacity(len + 32);
    let mut n = 0_u64;
    while out.len() < len {
        out.extend_from_slice(blake(which, n).as_slice());
        n += 1;
    }
    out.truncate(len);
    out
}

fn blake(which: u8, n: u64) -> [u8; 32] {
    repo_format::ChunkId::of(None, &[&[which][..], &n.to_le_bytes()].concat()).0
}

#[derive(Debug, Clone)]
struct Point {
    files: Files,
    hidden: bool,
    protected: bool,
    /// What it was before it was thinned, as long as that can be brought back.
    whole: Option<Files>,
    /// A prune beside a mount kept what it was, or did not: the mount pins points when it notices them.
    unsure: bool,
}

struct Machine {
    rig: Rig,
    files: Files,
    points: BTreeMap<String, Point>,
    order: Vec<String>,
    mounted: bool,
    /// Points that the mount has shown, and files of them that are open and unread.
    pinned: BTreeSet<String>,
    open: Vec<(fs::File, u8)>,
}

impl Machine {
    fn new() -> Self {
        let (files, points) = (Files::new(), BTreeMap::new());
        Self {
            rig: Rig::new(),
            files,
            points,
            order: Vec::new(),
            mounted: false,
            pinned: BTreeSet::new(),
            open: Vec::new(),
        }
    }

    fn ids(&self, wanted: impl Fn(&Point) -> bool) -> Vec<String> {
        self.order.iter().filter(|id| self.points.get(*id).is_some_and(&wanted)).cloned().collect()
    }

    fn pick(&self, index: prop::sample::Index, wanted: impl Fn(&Point) -> bool) -> Option<String> {
        let all = self.ids(wanted);
        (!all.is_empty()).then(|| all[index.index(all.len())].clone())
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Backup(changes) => self.backup(changes),
            Op::Forget(index) => {
                let Some(id) = self.pick(*index, |p| !p.hidden) else { return };
                let alone = self.ids(|p| !p.hidden).len() == 1;
                let args: &[&str] = if alone { &["--unsafe-allow-remove-all"] } else { &[] };
                let done = maint(&self.rig, &[&["forget", "--yes", &id], args].concat());
                let point = self.points.get_mut(&id).unwrap();
                assert_eq!(done.status.success(), !point.protected);
                point.hidden = !point.protected;
            }
            Op::KeepLast(n) => {
                let visible = self.ids(|p| !p.hidden);
                self.rig.maint(&["forget", "--yes", "--keep-last", &n.to_string()]);
                for id in visible.iter().rev().skip(usize::from(*n)) {
                    let point = self.points.get_mut(id).unwrap();
                    point.hidden = !point.protected;
                }
            }
            Op::KeepVersions(most) => {
                self.rig.maint(&["forget", "--yes", "--keep-versions", &most.to_string()]);
                self.thin(usize::from(*most));
            }
            Op::Undelete(index) => {
                let Some(id) = self.pick(*index, |p| (p.hidden || p.whole.is_some()) && !p.unsure) else { return };
                self.rig.maint(&["undelete", &id]);
                let point = self.points.get_mut(&id).unwrap();
                point.hidden = false;
                point.files = point.whole.take().unwrap_or_else(|| point.files.clone());
            }
            Op::Protect(index) | Op::Unprotect(index) => {
                let Some(id) = self.pick(*index, |p| !p.hidden) else { return };
                let protect = matches!(op, Op::Protect(_));
                self.rig.maint(&[if protect { "protect" } else { "unprotect" }, "--yes", &id]);
                self.points.get_mut(&id).unwrap().protected = protect;
            }
            Op::Prune => {
                self.rig.maint(&["prune", "--yes"]);
                let pinned = self.pinned.clone();
                self.points.retain(|id, point| !point.hidden || pinned.contains(id));
                for (_, point) in self.points.iter_mut().filter(|(id, _)| !pinned.contains(*id)) {
                    point.unsure |= self.mounted && point.whole.is_some();
                    point.whole = None;
                }
            }
            Op::Compact => _ = self.rig.maint(&["compact", "--yes", "--min-live", "0.9"]),
            // A mount keeps the index it has; it would not see what comes after.
            Op::Rebuild if !self.mounted => _ = self.rig.maint(&["rebuild"]),
            Op::Rebuild => {}
            Op::Mount => self.toggle_mount(),
        }
    }

    fn backup(&mut self, changes: &[(u8, Option<u8>)]) {
        for (file, change) in changes {
            let name = format!("file-{file}");
            match change {
                Some(which) => {
                    fs::write(self.rig.source().join(&name), content(*which)).unwrap();
                    self.files.insert(name, *which);
                }
                None => {
                    let _ = fs::remove_file(self.rig.source().join(&name));
                    self.files.remove(&name);
                }
            }
        }
        let source = self.rig.source();
        self.rig.backup();
        let visible = listed(&self.rig);
        let new: Vec<String> = visible.into_iter().filter(|id| !self.points.contains_key(id)).collect();
        assert_eq!(new.len(), 1, "one backup of {}, one point", source.display());
        let point = Point { files: self.files.clone(), hidden: false, protected: false, whole: None, unsure: false };
        self.points.insert(new[0].clone(), point);
        self.order.push(new[0].clone());
    }

    /// The rule, file by file over full listings. A point that would lose all its files is forgotten as it is.
    fn thin(&mut self, most: usize) {
        let visible = self.ids(|p| !p.hidden);
        let before: Vec<Point> = visible.iter().map(|id| self.points[id].clone()).collect();
        let names: BTreeSet<String> = visible.iter().flat_map(|id| self.points[id].files.keys().cloned()).collect();
        for name in names {
            let mut contents: Vec<u8> = Vec::new();
            for content in visible.iter().rev().filter_map(|id| self.points[id].files.get(&name)) {
                if !contents.contains(content) {
                    contents.push(*content);
                }
            }
            for id in &visible {
                let point = self.points.get_mut(id).unwrap();
                let old = point
                    .files
                    .get(&name)
                    .is_some_and(|content| !contents[..most.min(contents.len())].contains(content));
                if old && !point.protected {
                    point.whole.get_or_insert_with(|| point.files.clone());
                    point.files.remove(&name);
                }
            }
        }
        for (id, before) in visible.iter().zip(before) {
            if self.points[id].files.is_empty() && !before.files.is_empty() {
                self.points.insert(id.clone(), Point { hidden: true, ..before });
            }
        }
    }

    fn toggle_mount(&mut self) {
        if self.mounted {
            self.end_mount();
            return;
        }
        self.rig.mount();
        self.mounted = true;
        for id in self.ids(|p| !p.hidden) {
            let dir = self.rig.mounted(&format!("ids/{id}"));
            for (name, which) in &self.points[&id].files {
                self.open.push((fs::File::open(dir.join(name)).unwrap(), *which));
            }
            self.pinned.insert(id);
        }
    }

    /// What was opened when the mount began is read only now, whatever was forgotten, pruned and compacted since.
    fn end_mount(&mut self) {
        for (file, which) in self.open.drain(..) {
            let want = content(which);
            let mut got = vec![0; want.len() + 1];
            let mut len = 0;
            loop {
                match file.read_at(&mut got[len..], len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(error) => {
                        let log = fs::read_to_string(self.rig.path("state/relict/mount.log")).unwrap_or_default();
                        panic!("{error}; the mount says: {log}");
                    }
                }
            }
            assert!(got[..len] == want, "a file held open through the mount");
        }
        crate::end_mount(&self.rig);
        self.mounted = false;
        self.pinned.clear();
    }

    /// The repository is what the model says.
    fn agree(&self) {
        let mut want = self.ids(|p| !p.hidden);
        let mut found = listed(&self.rig);
        want.sort();
        found.sort();
        assert_eq!(found, want);
        let check = maint(&self.rig, &["check", "--read-data"]);
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        for (id, point) in self.points.iter().filter(|(_, point)| !point.hidden) {
            let out = self.rig.restore(id, "out");
            let names: BTreeSet<String> =
                fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            assert!(names.iter().eq(point.files.keys()), "{id}: {names:?}");
            for (name, which) in &point.files {
                assert!(fs::read(out.join(name)).unwrap() == content(*which), "{id}: {name}");
            }
            fs::remove_dir_all(&out).unwrap();
        }
        assert!(!exists(&self.rig.path("out")));
    }
}

#[test]
fn random_sequences_agree_with_the_model() {
    let cases = std::env::var("RELICT_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let config = Config { cases, max_shrink_iters: 24, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let ran = runner.run(&prop::collection::vec(op(), 6..16), |ops| {
        let mut machine = Machine::new();
        for op in &ops {
            machine.apply(op);
            if matches!(op, Op::Prune | Op::Compact | Op::Rebuild | Op::Undelete(_)) {
                machine.agree();
            }
        }
        if machine.mounted {
            machine.end_mount();
        }
        machine.apply(&Op::Prune);
        machine.agree();
        Ok(())
    });
    if let Err(failure) = ran {
        panic!("{failure}");
    }
}
