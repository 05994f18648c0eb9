//! The virtual directories: which restore points appear where, under which names and inode numbers.
//!
//! ```text
//! latest -> snapshots/<time>            snapshots/<time>/   snapshots/latest -> <time>
//! hosts/<host>/<source>/<time>/         hosts/<host>/<source>/latest -> <time>
//! tags/<tag>/<time>/                    tags/<tag>/latest -> <time>
//! ids/<id>/                             sets/<guid>/<host>/<source>/
//! at/  diff/                            looked up only: `computed`
//! versions/<host>/<source>/             deleted/<host>/<source>/: below them, `computed`
//! .relict/health.json  .relict/metrics  `status`
//! ```
//! A layout is a value. When the list of points changes, the next one is made from the last: a point keeps
//! its name and its slots, and a directory entry keeps its place, so that a directory can be listed while it
//! changes. Slots and numbers are taken from hashes of what they stand for, so they are, but for rare
//! collisions, the same in every mount. A point that went away keeps its slots until the mount ends: open
//! files stay readable as long as their chunks do.

use super::computed::{Ghost, Node};
use super::inode::{Ino, MAX_LAYOUT_SLOT, MAX_TREE_INO};
use super::names::{escape, time_name};
use repo_format::{FileKind, PointId, PointRecord, Time};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Numbers below this one are not given by hash.
const FIRST_HASHED_INO: u64 = 16;
const LATEST: &str = "latest";
/// `at/`.
pub(super) const AT: Ino = Ino(6);
/// `diff/`.
pub(super) const DIFF: Ino = Ino(7);
/// `.relict/health.json`.
pub(super) const HEALTH: Ino = Ino(12);
/// `.relict/metrics`.
pub(super) const METRICS: Ino = Ino(13);
/// Directories of fixed numbers.
const FIXED: [(&str, u64); 11] = [
    ("", 1),
    ("snapshots", 2),
    ("hosts", 3),
    ("tags", 4),
    ("ids", 5),
    ("at", AT.0),
    ("diff", DIFF.0),
    ("versions", 8),
    ("deleted", 9),
    ("sets", 10),
    (".relict", 11),
];

/// One state of the virtual directories.
#[derive(Debug, Default, Clone)]
pub(super) struct Layout {
    dirs: HashMap<u64, Dir>,
    links: HashMap<u64, Link>,
    slots: HashMap<u32, Slot>,
    slot_of: HashMap<(u64, PointId), u32>,
    names: HashMap<PointId, String>,
    shown: Vec<PointId>,
    sources: BTreeMap<(String, String), Arc<Source>>,
    ghosts: HashMap<u64, Arc<Node>>,
    /// Directory that stays when it is empty, as somebody mounted it.
    kept: Option<String>,
    generation: u64,
    changed: Time,
    no_acls: bool,
}

/// The restore points of one source, oldest first, with the slots they have in `hosts/`.
#[derive(Debug)]
pub(super) struct Source {
    /// As in paths of the mount.
    pub(super) host: String,
    /// As in paths of the mount.
    pub(super) source: String,
    pub(super) points: Vec<Arc<PointRecord>>,
    pub(super) slots: Vec<u32>,
    pub(super) names: Vec<String>,
    /// Of the layout that this was made for.
    pub(super) generation: u64,
}

/// A virtual directory.
#[derive(Debug, Clone)]
pub(super) struct Dir {
    pub(super) parent: Ino,
    pub(super) mtime: Time,
    pub(super) subdirs: u32,
    /// In order of `place`.
    children: Vec<Child>,
    by_name: HashMap<String, usize>,
    next_place: u64,
}

/// An entry of a virtual directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Child {
    /// The entry's position for ever; positions are not used again.
    pub(super) place: u64,
    pub(super) name: String,
    pub(super) ino: Ino,
    pub(super) kind: FileKind,
}

/// A virtual symbolic link.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) target: String,
    pub(super) mtime: Time,
}

/// A restore point in one directory.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) point: Arc<PointRecord>,
    pub(super) parent: Ino,
    /// Path of the point's root below the mount.
    pub(super) path: Arc<str>,
}

/// A virtual directory that is not what it was, and those names in it that meant something else before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedDir {
    /// The directory.
    pub ino: Ino,
    /// Names that went away or have another inode now.
    pub stale_names: Vec<String>,
}

#[derive(Clone)]
enum Want {
    Dir,
    Point(Arc<PointRecord>),
    Link(String),
    Ghosts(Ghost),
    File(Ino),
}

#[derive(Default)]
struct WantDir {
    entries: BTreeMap<String, Want>,
    newest: Time,
    /// The newest point by (time, id), and its name.
    latest: Option<(Time, PointId, String)>,
}

type Wanted = BTreeMap<String, WantDir>;

impl Dir {
    pub(super) fn child(&self, name: &str) -> Option<&Child> {
        self.children.get(*self.by_name.get(name)?)
    }

    /// Entries at `place` and after it.
    pub(super) fn children_from(&self, place: u64) -> &[Child] {
        let start = self.children.partition_point(|child| child.place < place);
        self.children.get(start..).unwrap_or_default()
    }
}

impl Layout {
    pub(super) fn dir(&self, ino: Ino) -> Option<&Dir> {
        self.dirs.get(&ino.0)
    }

    pub(super) fn link(&self, ino: Ino) -> Option<&Link> {
        self.links.get(&ino.0)
    }

    pub(super) fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(&slot)
    }

    /// The source behind two names of the mount.
    pub(super) fn source(&self, host: &str, source: &str) -> Option<&Arc<Source>> {
        self.sources.get(&(host.to_string(), source.to_string()))
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.sources.values()
    }

    /// The source whose directory below `hosts/` this is.
    pub(super) fn source_at(&self, ino: Ino) -> Option<&Arc<Source>> {
        let first = self.dirs.get(&ino.0)?.children.iter().find(|child| child.kind == FileKind::Dir)?;
        let point = &self.slot(first.ino.slot())?.point;
        let source = self.source(&escape(&point.host), &escape(&point.source))?;
        source.slots.contains(&first.ino.slot()).then_some(source)
    }

    /// A directory that is computed, of those that the layout itself names.
    pub(super) fn ghost(&self, ino: Ino) -> Option<&Arc<Node>> {
        self.ghosts.get(&ino.0)
    }

    /// The directory at a path of names, and whatever else is found that way.
    pub(super) fn find(&self, path: &str) -> Option<Ino> {
        let step = |at: Ino, name: &str| Some(self.dir(at)?.child(name)?.ino);
        path.split('/').filter(|name| !name.is_empty()).try_fold(Ino::ROOT, step)
    }

    /// Keeps a directory, also when nothing is in it any more.
    pub(super) fn keep(&mut self, path: String) {
        self.kept = Some(path);
    }

    /// Counts changes; what is computed from a layout is right as long as this stays.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// When the list of points changed last.
    pub(super) fn changed(&self) -> Time {
        self.changed
    }

    /// Whether every restore point shown is known to have no POSIX ACLs.
    pub(super) const fn has_no_acls(&self) -> bool {
        self.no_acls
    }

    /// Number of restore points shown.
    pub(super) fn points(&self) -> usize {
        self.shown.len()
    }

    /// The layout of `points`, keeping names, places and numbers, and what changed. None: nothing did.
    pub(super) fn update(&self, points: &[Arc<PointRecord>], now: Time) -> Option<(Self, Vec<ChangedDir>)> {
        let mut points = points.to_vec();
        points.sort_by_key(|point| (point.time, point.id));
        points.dedup_by_key(|point| point.id);
        let shown: Vec<PointId> = points.iter().map(|point| point.id).collect();
        if shown == self.shown && !self.dirs.is_empty() {
            return None;
        }
        let mut next =
            Self { dirs: HashMap::new(), links: HashMap::new(), ghosts: HashMap::new(), shown, ..self.clone() };
        next.generation += 1;
        next.no_acls = points.iter().all(|point| point.has_no_acls());
        let first = self.dirs.is_empty();
        next.changed = if first { points.iter().map(|point| point.sealed).max().unwrap_or_default() } else { now };
        next.name_points(&points);
        let wanted = next.wanted(&points);
        let inos = Numbers::of(&wanted);
        let mut changed = Vec::new();
        for (path, want) in &wanted {
            changed.extend(next.make_dir(self, &inos, path, want, now));
        }
        next.sources = next.by_source(&points, &inos);
        Some((next, changed))
    }

    fn by_source(&self, points: &[Arc<PointRecord>], inos: &Numbers) -> BTreeMap<(String, String), Arc<Source>> {
        let mut out: BTreeMap<(String, String), Source> = BTreeMap::new();
        for point in points {
            let (host, source) = (escape(&point.host), escape(&point.source));
            let dir = inos.of.get(&format!("hosts/{host}/{source}")).copied().unwrap_or_default();
            let slot = self.slot_of.get(&(dir, point.id)).copied().unwrap_or_default();
            let chain = out.entry((host.clone(), source.clone())).or_insert_with(|| {
                let (points, slots, names) = Default::default();
                Source { host, source, points, slots, names, generation: self.generation }
            });
            chain.points.push(Arc::clone(point));
            chain.slots.push(slot);
            chain.names.push(self.names.get(&point.id).cloned().unwrap_or_default());
        }
        out.into_iter().map(|(key, source)| (key, Arc::new(source))).collect()
    }

    /// Names new points after their time; of one second, the first by (time, id) has no number.
    fn name_points(&mut self, points: &[Arc<PointRecord>]) {
        let mut taken: HashSet<String> = self.names.values().cloned().collect();
        for point in points.iter().filter(|point| !self.names.contains_key(&point.id)).collect::<Vec<_>>() {
            let base = time_name(point.time);
            let numbered = (2_u64..).map(|n| format!("{base}-{n}"));
            let free = std::iter::once(base.clone()).chain(numbered).find(|name| !taken.contains(name));
            let name = free.unwrap_or(base);
            taken.insert(name.clone());
            self.names.insert(point.id, name);
        }
    }

    fn wanted(&self, points: &[Arc<PointRecord>]) -> Wanted {
        let mut wanted = Wanted::new();
        wanted.insert(String::new(), WantDir::default());
        let tops = FIXED.iter().map(|(path, _)| *path).filter(|path| !path.is_empty());
        for top in tops.chain(self.kept.as_deref()) {
            want_dir(&mut wanted, top, Time::default());
        }
        for (name, ino) in [("health.json", HEALTH), ("metrics", METRICS)] {
            want_dir(&mut wanted, ".relict", Time::default()).entries.insert(name.to_string(), Want::File(ino));
        }
        for point in points {
            let name = self.names.get(&point.id).cloned().unwrap_or_default();
            let mut dirs =
                vec!["snapshots".to_string(), format!("hosts/{}/{}", escape(&point.host), escape(&point.source))];
            dirs.extend(point.tags.iter().map(|tag| format!("tags/{}", escape(tag))));
            for path in dirs {
                let dir = want_dir(&mut wanted, &path, point.sealed);
                dir.entries.insert(name.clone(), Want::Point(Arc::clone(point)));
                // Points come in order, so the last one is the newest.
                dir.latest = Some((point.time, point.id, name.clone()));
            }
            let dir = want_dir(&mut wanted, "ids", point.sealed);
            dir.entries.insert(point.id.to_string(), Want::Point(Arc::clone(point)));
            want_history(&mut wanted, point);
        }
        let newest = wanted.get("snapshots").and_then(|dir| dir.latest.clone());
        for dir in wanted.values_mut() {
            if let Some((_, _, name)) = &dir.latest {
                dir.entries.insert(LATEST.to_string(), Want::Link(name.clone()));
            }
        }
        if let (Some(root), Some((_, _, name))) = (wanted.get_mut(""), newest) {
            root.entries.insert(LATEST.to_string(), Want::Link(format!("snapshots/{name}")));
        }
        wanted
    }

    fn make_dir(&mut self, old: &Self, inos: &Numbers, path: &str, want: &WantDir, now: Time) -> Option<ChangedDir> {
        let ino = inos.of.get(path).copied()?;
        let before = old.dirs.get(&ino);
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let mut children = Vec::new();
        let mut new = Vec::new();
        for (name, entry) in &want.entries {
            let child = self.make_child(inos, ino, path, name, entry, want.newest);
            match before.and_then(|dir| dir.child(name)) {
                Some(known) => children.push(Child { place: known.place, ..child }),
                None => new.push(child),
            }
        }
        children.sort_by_key(|child| child.place);
        let mut next_place = before.map_or(0, |dir| dir.next_place);
        for child in new {
            children.push(Child { place: next_place, ..child });
            next_place += 1;
        }
        let same = before.is_some_and(|dir| dir.children == children);
        let mtime = match before {
            Some(dir) if same => dir.mtime,
            Some(_) => now,
            None => want.newest,
        };
        let dir = Dir {
            parent: Ino(inos.of.get(parent).copied().unwrap_or(Ino::ROOT.0)),
            mtime,
            subdirs: children.iter().filter(|child| child.kind == FileKind::Dir).count() as u32,
            by_name: children.iter().enumerate().map(|(index, child)| (child.name.clone(), index)).collect(),
            children,
            next_place,
        };
        let changed =
            before.filter(|_| !same).map(|before| ChangedDir { ino: Ino(ino), stale_names: stale(before, &dir) });
        self.dirs.insert(ino, dir);
        changed
    }

    fn make_child(&mut self, inos: &Numbers, parent: u64, path: &str, name: &str, want: &Want, mtime: Time) -> Child {
        let below = join(path, name);
        let ino = match want {
            Want::Dir => Ino(inos.of.get(&below).copied().unwrap_or_default()),
            Want::Point(point) => {
                let slot = self.slot_for(parent, path, point, &below);
                Ino::in_slot(slot, repo_format::ROOT_INO).unwrap_or(Ino(0))
            }
            Want::Link(target) => {
                let taken = |ino| inos.taken.contains(&ino) || self.links.contains_key(&ino);
                let ino = free_ino(format!("{below}\0{target}").as_bytes(), taken);
                self.links.insert(ino, Link { target: target.clone(), mtime });
                Ino(ino)
            }
            Want::Ghosts(ghost) => {
                let (host, source) = (path.rsplit('/').next().unwrap_or_default().to_string(), name.to_string());
                let node = Node::ghosts(*ghost, host, source);
                let ino = node.ino();
                self.ghosts.insert(ino.0, Arc::new(node));
                ino
            }
            Want::File(ino) => *ino,
        };
        let kind = match want {
            Want::Link(_) => FileKind::Symlink,
            Want::File(_) => FileKind::File,
            _ => FileKind::Dir,
        };
        Child { place: 0, name: name.to_string(), ino, kind }
    }

    fn slot_for(&mut self, parent: u64, dir: &str, point: &Arc<PointRecord>, path: &str) -> u32 {
        // One that was let go of, thinned, and is shown again has another tree, and other inode numbers for it.
        let same = |slot: &&u32| self.slots.get(slot).is_some_and(|known| known.point.root == point.root);
        if let Some(slot) = self.slot_of.get(&(parent, point.id)).filter(same) {
            return *slot;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&point.id.0).update(dir.as_bytes());
        let mut slot = number_of(&hasher.finalize()) as u32 & MAX_LAYOUT_SLOT;
        while slot == 0 || self.slots.contains_key(&slot) {
            slot = (slot + 1) & MAX_LAYOUT_SLOT;
        }
        self.slots.insert(slot, Slot { point: Arc::clone(point), parent: Ino(parent), path: path.into() });
        self.slot_of.insert((parent, point.id), slot);
        slot
    }
}

/// Names of `before` that are gone or mean another inode in `after`.
fn stale(before: &Dir, after: &Dir) -> Vec<String> {
    let moved = |child: &&Child| after.child(&child.name).is_none_or(|now| now.ino != child.ino);
    before.children.iter().filter(moved).map(|child| child.name.clone()).collect()
}

/// The directory at `path`, made with its parents; `newest` is the time of something in it.
fn want_dir<'w>(wanted: &'w mut Wanted, path: &str, newest: Time) -> &'w mut WantDir {
    let mut end = 0;
    while end < path.len() {
        let start = if end == 0 { 0 } else { end + 1 };
        let (parent, rest) = (path.get(..end).unwrap_or(""), path.get(start..).unwrap_or(""));
        let name = rest.split('/').next().unwrap_or(rest);
        let dir = wanted.entry(parent.to_string()).or_default();
        dir.newest = dir.newest.max(newest);
        dir.entries.entry(name.to_string()).or_insert(Want::Dir);
        end = start + name.len();
    }
    let dir = wanted.entry(path.to_string()).or_default();
    dir.newest = dir.newest.max(newest);
    dir
}

/// Where the history of a point's source is shown, and the set it belongs to.
fn want_history(wanted: &mut Wanted, point: &Arc<PointRecord>) {
    let (host, source) = (escape(&point.host), escape(&point.source));
    for (top, ghost) in [("versions", Ghost::Versions), ("deleted", Ghost::Deleted)] {
        let dir = want_dir(wanted, &format!("{top}/{host}"), point.sealed);
        dir.entries.insert(source.clone(), Want::Ghosts(ghost));
    }
    if let Some(set) = point.set() {
        // Of two points of one source in a set, the newer one is the set's.
        let dir = want_dir(wanted, &format!("sets/{}/{host}", set), point.sealed);
        dir.entries.insert(source, Want::Point(Arc::clone(point)));
    }
}

/// Numbers of all directories: fixed ones at the top, hashes of the path below.
struct Numbers {
    of: HashMap<String, u64>,
    taken: HashSet<u64>,
}

impl Numbers {
    fn of(wanted: &Wanted) -> Self {
        let of: HashMap<String, u64> = FIXED.map(|(path, ino)| (path.to_string(), ino)).into();
        let mut numbers = Self { taken: of.values().copied().collect(), of };
        for path in wanted.keys().filter(|path| !FIXED.iter().any(|(known, _)| known == path)) {
            let ino = free_ino(path.as_bytes(), |ino| numbers.taken.contains(&ino));
            numbers.taken.insert(ino);
            numbers.of.insert(path.clone(), ino);
        }
        numbers
    }
}

fn free_ino(of: &[u8], taken: impl Fn(u64) -> bool) -> u64 {
    let mut ino = number_of(&blake3::hash(of)) & MAX_TREE_INO;
    while ino < FIRST_HASHED_INO || taken(ino) {
        ino = (ino + 1) & MAX_TREE_INO;
    }
    ino
}

fn number_of(hash: &blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::memory::point;

    fn update(layout: &Layout, points: &[Arc<PointRecord>]) -> (Layout, Vec<ChangedDir>) {
        layout.update(points, Time { sec: 9_000, nsec: 0 }).expect("a change")
    }

    fn walk(layout: &Layout, ino: Ino, path: &str, out: &mut Vec<String>) {
        for child in layout.dir(ino).unwrap().children_from(0) {
            let path = join(path, &child.name);
            if child.kind == FileKind::File || layout.ghost(child.ino).is_some() {
                out.push(format!("{path} *"));
                continue;
            }
            match (layout.link(child.ino), layout.dir(child.ino)) {
                (Some(link), None) => out.push(format!("{path} -> {}", link.target)),
                (None, Some(_)) => walk(layout, child.ino, &path, out),
                _ => {
                    let slot = layout.slot(child.ino.slot()).unwrap();
                    assert_eq!((slot.parent, &*slot.path), (ino, path.as_str()));
                    out.push(path);
                }
            }
        }
    }

    fn tree(layout: &Layout) -> Vec<String> {
        let mut out = Vec::new();
        walk(layout, Ino::ROOT, "", &mut out);
        out.retain(|path| !path.starts_with(".relict"));
        out.sort();
        out
    }

    fn numbers(layout: &Layout) -> HashMap<(u64, String), Ino> {
        let children =
            layout.dirs.iter().flat_map(|(ino, dir)| dir.children.iter().map(move |c| ((*ino, c.name.clone()), c.ino)));
        children.collect()
    }

    #[test]
    fn an_empty_repository_has_its_directories() {
        let (layout, changed) = update(&Layout::default(), &[]);
        assert_eq!((tree(&layout), changed), (Vec::<String>::new(), Vec::new()));
        assert_eq!(layout.dir(Ino::ROOT).unwrap().subdirs, 10);
        assert!(layout.update(&[], Time::default()).is_none());
    }

    #[test]
    fn a_point_appears_in_every_place() {
        let (layout, _) =
            update(&Layout::default(), &[point(1, 0, "web", "/etc", &["daily"]), point(2, 0, "web", "/etc", &[])]);
        let one = format!("ids/{}", PointId([1; 16]));
        let two = format!("ids/{}", PointId([2; 16]));
        let mut expected = vec![
            one.as_str(),
            two.as_str(),
            "hosts/web/+etc/1970-01-01T00-00-00Z",
            "hosts/web/+etc/1970-01-01T00-00-00Z-2",
            "hosts/web/+etc/latest -> 1970-01-01T00-00-00Z-2",
            "latest -> snapshots/1970-01-01T00-00-00Z-2",
            "snapshots/1970-01-01T00-00-00Z",
            "snapshots/1970-01-01T00-00-00Z-2",
            "snapshots/latest -> 1970-01-01T00-00-00Z-2",
            "tags/daily/1970-01-01T00-00-00Z",
            "tags/daily/latest -> 1970-01-01T00-00-00Z",
            "versions/web/+etc *",
            "deleted/web/+etc *",
        ];
        expected.sort_unstable();
        assert_eq!(tree(&layout), expected);
    }

    #[test]
    fn new_points_leave_old_names_places_and_numbers_alone() {
        let first = [point(5, 60, "a", "s", &["t"]), point(6, 120, "a", "s", &[])];
        let (before, _) = update(&Layout::default(), &first);
        // Sorts before both, and shares the second of one.
        let all = [first[0].clone(), first[1].clone(), point(1, 60, "b", "s", &["t"]), point(2, 0, "a", "s", &[])];
        let (after, changed) = update(&before, &all);
        let (old, new) = (numbers(&before), numbers(&after));
        for (key, ino) in &old {
            assert_eq!(new.get(key), Some(ino), "{key:?}");
        }
        let snapshots = after.dir(Ino(2)).unwrap();
        let names: Vec<_> = snapshots.children_from(0).iter().map(|c| c.name.as_str()).collect();
        let expected = [
            "1970-01-01T00-01-00Z",
            "1970-01-01T00-02-00Z",
            "latest",
            "1970-01-01T00-00-00Z",
            "1970-01-01T00-01-00Z-2",
        ];
        assert_eq!(names, expected);
        assert_eq!(snapshots.children_from(3).len(), 2);
        assert!(changed.iter().any(|c| c.ino == Ino(2) && c.stale_names.is_empty()), "{changed:?}");
        assert_eq!(snapshots.mtime.sec, 9_000);
    }

    #[test]
    fn a_new_latest_is_another_inode_and_the_name_is_stale() {
        let (before, _) = update(&Layout::default(), &[point(1, 0, "a", "s", &[])]);
        let (_, changed) = update(&before, &[point(1, 0, "a", "s", &[]), point(2, 60, "a", "s", &[])]);
        let root = changed.iter().find(|c| c.ino == Ino::ROOT).unwrap();
        assert_eq!(root.stale_names, ["latest"]);
    }

    #[test]
    fn a_point_that_went_away_keeps_its_slot() {
        let points = [point(1, 0, "a", "s", &["t"]), point(2, 60, "b", "s", &[])];
        let (before, _) = update(&Layout::default(), &points);
        let gone = before.dir(Ino(2)).unwrap().child("1970-01-01T00-00-00Z").unwrap().ino;
        let (after, changed) = update(&before, &points[1..]);
        assert!(tree(&after).iter().all(|path| !path.contains("00-00-00Z")));
        assert_eq!(after.slot(gone.slot()).unwrap().point.id, PointId([1; 16]));
        let tags = changed.iter().find(|c| c.ino == Ino(4)).unwrap();
        assert_eq!(tags.stale_names, ["t"]);
    }

    #[test]
    fn points_of_a_set_stand_together() {
        let in_set = |point: Arc<PointRecord>| {
            Arc::new(PointRecord { extra: vec![(repo_format::SET_TAG, vec![7; 16])], ..(*point).clone() })
        };
        let points = [
            in_set(point(1, 0, "a", "s", &[])),
            in_set(point(2, 60, "b", "t", &[])),
            in_set(point(3, 90, "a", "s", &[])),
            point(4, 99, "a", "s", &[]),
        ];
        let (layout, _) = update(&Layout::default(), &points);
        let set = "sets/07070707-0707-0707-0707-070707070707";
        let sets: Vec<_> = tree(&layout).into_iter().filter(|path| path.starts_with("sets")).collect();
        assert_eq!(sets, [format!("{set}/a/s"), format!("{set}/b/t")]);
        let found = layout.find(&format!("{set}/a/s")).unwrap();
        assert_eq!(layout.slot(found.slot()).unwrap().point.id, PointId([3; 16]));
    }

    #[test]
    fn a_source_knows_its_points_and_its_directory() {
        let points = [point(1, 0, "a", "s", &[]), point(2, 60, "a", "s", &[]), point(3, 90, "a", "/t", &[])];
        let (layout, _) = update(&Layout::default(), &points);
        let source = layout.source("a", "s").unwrap();
        assert_eq!((source.points.len(), source.names[1].as_str()), (2, "1970-01-01T00-01-00Z"));
        let dir = layout.find("hosts/a/s").unwrap();
        assert_eq!(layout.source_at(dir).unwrap().source, "s");
        assert!(layout.source_at(layout.find("snapshots").unwrap()).is_none() && layout.source_at(Ino::ROOT).is_none());
        assert!(layout.source_at(layout.find("tags").unwrap()).is_none());
        for (slot, point) in source.slots.iter().zip(&source.points) {
            assert_eq!((layout.slot(*slot).unwrap().point.id, layout.slot(*slot).unwrap().parent), (point.id, dir));
        }
    }

    #[test]
    fn numbers_are_the_same_in_the_next_mount() {
        let points: Vec<_> = (0..200).map(|n| point(n, i64::from(n) * 30, "h", "s", &["t"])).collect();
        let (whole, _) = update(&Layout::default(), &points);
        let (part, _) = update(&Layout::default(), &points[100..]);
        let whole = numbers(&whole);
        let links = |name: &str| name == LATEST;
        for (key, ino) in numbers(&part).iter().filter(|((_, name), _)| !links(name)) {
            assert_eq!(whole.get(key), Some(ino), "{key:?}");
        }
    }
}
