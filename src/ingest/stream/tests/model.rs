//! The naive definition of right: a file system of maps, and random changes held against it.

use super::*;
use proptest::prelude::*;

/// What an inode is.
#[derive(Debug, Clone, PartialEq)]
struct Item {
    kind: FileKind,
    mode: u32,
    uid: u32,
    time: i64,
    xattrs: BTreeMap<String, Vec<u8>>,
    target: Option<String>,
    data: Vec<u8>,
    device: Option<Device>,
    wanted: Option<u64>,
}

/// A file system by full paths.
#[derive(Debug, Clone)]
pub(super) struct Model {
    names: BTreeMap<String, usize>,
    items: BTreeMap<usize, Item>,
    next: usize,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Model {
    pub(super) fn new() -> Self {
        let root = Item::new(FileKind::Dir, 0o755, None);
        Self { names: [(String::new(), 0)].into(), items: [(0, root)].into(), next: 1 }
    }

    fn item(&mut self, path: &str) -> Option<&mut Item> {
        self.items.get_mut(self.names.get(path)?)
    }

    fn file(&mut self, path: &str) -> Option<&mut Item> {
        self.item(path).filter(|item| item.kind == FileKind::File)
    }

    fn is_free(&mut self, path: &str) -> Option<()> {
        let in_dir = self.item(parent(path))?.kind == FileKind::Dir;
        (in_dir && !path.is_empty() && !self.names.contains_key(path)).then_some(())
    }

    fn create(&mut self, path: &str, item: Item) -> Option<()> {
        self.is_free(path)?;
        self.names.insert(path.to_owned(), self.next);
        self.items.insert(self.next, item);
        self.next += 1;
        Some(())
    }

    fn has_entries(&self, path: &str) -> bool {
        self.names.keys().any(|name| !name.is_empty() && parent(name) == path)
    }

    /// None for what must be refused.
    pub(super) fn apply(&mut self, op: &Op, states: &[Self]) -> Option<()> {
        match op {
            Op::Create(path, kind, ino) => {
                let mode = match kind {
                    FileKind::Dir => 0o700,
                    FileKind::Symlink => 0o777,
                    _ => 0o600,
                };
                self.create(path, Item::new(*kind, mode, *ino))?;
            }
            Op::Device(path, major, minor) => {
                let device = Some(Device { major: *major, minor: *minor });
                self.create(path, Item { device, ..Item::new(FileKind::Char, 0o600, None) })?;
            }
            Op::Link(path, existing) => {
                self.item(existing).filter(|item| item.kind != FileKind::Dir)?;
                self.is_free(path)?;
                self.names.insert(path.clone(), self.names[existing]);
            }
            Op::Unlink(path) => {
                self.item(path).filter(|item| item.kind != FileKind::Dir)?;
                self.names.remove(path);
            }
            Op::RemoveDir(path) => {
                self.item(path).filter(|item| item.kind == FileKind::Dir)?;
                if path.is_empty() || self.has_entries(path) {
                    return None;
                }
                self.names.remove(path);
            }
            Op::Rename(from, to) => {
                let below = format!("{from}/");
                if from.is_empty() || !self.names.contains_key(from) || to.starts_with(&below) {
                    return None;
                }
                self.is_free(to)?;
                let moved: Vec<String> =
                    self.names.keys().filter(|n| *n == from || n.starts_with(&below)).cloned().collect();
                for name in moved {
                    let item = self.names.remove(&name)?;
                    self.names.insert(format!("{to}{}", &name[from.len()..]), item);
                }
            }
            Op::Mode(path, mode) => {
                let item = self.item(path)?;
                (item.mode, item.uid) = (*mode, 7);
            }
            Op::Time(path, sec) => self.item(path)?.time = *sec,
            Op::Xattr(path, name, value) => {
                let item = self.item(path)?;
                match value {
                    Some(value) => item.xattrs.insert(name.clone(), value.clone()),
                    None => item.xattrs.remove(name),
                };
            }
            Op::Target(path, target) => {
                self.item(path).filter(|item| item.kind == FileKind::Symlink)?.target = Some(target.clone());
            }
            Op::Write(path, offset, data) => {
                let file = self.file(path)?;
                file.put(*offset, data, true);
            }
            Op::Zero(path, offset, len, extend) => {
                let file = self.file(path)?;
                file.put(*offset, &vec![0; *len as usize], *extend);
                // Up to its end, also when it is empty, unlike a write.
                if *extend && *len == 0 {
                    file.data.resize(file.data.len().max(*offset as usize), 0);
                }
            }
            Op::Clone { to, offset, state, from, from_offset, len } => {
                self.file(to)?;
                // The state that is being made may be named, too.
                let state = state.filter(|state| *state != states.len());
                let mut other = state.map(|state| states.get(state).cloned());
                let source = match &mut other {
                    Some(state) => state.as_mut()?.file(from)?,
                    None => self.file(from)?,
                };
                let data = source.data.get(*from_offset as usize..(from_offset + len) as usize)?.to_vec();
                self.file(to)?.put(*offset, &data, true);
            }
            Op::Truncate(path, size) => self.file(path)?.data.resize(*size as usize, 0),
            Op::Changed(..) => return None,
        }
        self.items.retain(|item, _| self.names.values().any(|named| named == item));
        Some(())
    }

    /// Whether every symbolic link leads somewhere.
    pub(super) fn is_complete(&self) -> bool {
        self.items.values().all(|item| item.kind != FileKind::Symlink || item.target.is_some())
    }

    /// Holds a tree against this.
    pub(super) fn compare(&self, seen: &BTreeMap<String, Seen>) {
        assert_eq!(seen.keys().collect::<Vec<_>>(), self.names.keys().collect::<Vec<_>>(), "paths");
        let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
        for (path, one) in seen {
            let item = &self.items[&self.names[path]];
            assert_eq!(*numbers.entry(self.names[path]).or_insert(one.ino), one.ino, "hard links of {path}");
            let inode = &one.inode;
            assert_eq!((inode.kind(), inode.mode & 0o7777, inode.uid), (item.kind, item.mode, item.uid), "{path}");
            assert_eq!(inode.mtime.sec, item.time, "{path}");
            assert_eq!(one.xattrs, item.xattrs, "{path}");
            assert_eq!(one.target.as_deref(), item.target.as_ref().map(String::as_bytes), "{path}");
            assert_eq!(inode.rdev, item.device, "{path}");
            assert!(one.data == item.data, "the content of {path} differs");
            let size = item.target.as_ref().map_or(item.data.len(), String::len);
            assert_eq!(inode.size, size as u64, "{path}");
        }
        let distinct: BTreeSet<u64> = numbers.values().copied().collect();
        assert_eq!(distinct.len(), numbers.len(), "two inodes with one number");
    }

    /// A full stream of this, with the inode numbers that a tree has.
    pub(super) fn full(&self, seen: &BTreeMap<String, Seen>) -> Vec<Op> {
        let mut ops = Vec::new();
        let mut done: BTreeMap<usize, &String> = BTreeMap::new();
        for (path, number) in &self.names {
            let item = &self.items[number];
            if let Some(first) = done.insert(*number, path) {
                ops.push(Op::Link(path.clone(), first.clone()));
                continue;
            }
            match item.device {
                _ if path.is_empty() => {}
                Some(device) => ops.push(Op::Device(path.clone(), device.major, device.minor)),
                None => ops.push(Op::Create(path.clone(), item.kind, Some(seen[path].ino))),
            }
            ops.extend(item.target.clone().map(|target| Op::Target(path.clone(), target)));
            if item.kind == FileKind::File {
                let parts = item.data.chunks(3000).enumerate();
                ops.extend(parts.map(|(n, part)| Op::Write(path.clone(), n as u64 * 3000, part.to_vec())));
            }
            ops.extend(
                item.xattrs.iter().map(|(name, value)| Op::Xattr(path.clone(), name.clone(), Some(value.clone()))),
            );
            if item.uid == 7 {
                ops.push(Op::Mode(path.clone(), item.mode));
            }
            ops.push(Op::Time(path.clone(), item.time));
        }
        ops
    }

    pub(super) fn has_devices(&self) -> bool {
        self.items.values().any(|item| item.device.is_some())
    }
}

impl Item {
    fn new(kind: FileKind, mode: u32, wanted: Option<u64>) -> Self {
        let (xattrs, data) = (BTreeMap::new(), Vec::new());
        Self { kind, mode, uid: 0, time: 0, xattrs, target: None, data, device: None, wanted }
    }

    fn put(&mut self, offset: u64, bytes: &[u8], extend: bool) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if extend && !bytes.is_empty() {
            self.data.resize(self.data.len().max(end), 0);
        }
        let end = end.min(self.data.len());
        if start < end {
            self.data[start..end].copy_from_slice(&bytes[..end - start]);
        }
    }
}

const PATHS: [&str; 12] = ["a", "b", "c", "d", "d/a", "d/b", "d/d", "d/d/a", "e", "e/a", "e/d", "o257-1-0"];

fn path() -> impl Strategy<Value = String> {
    prop::sample::select(&PATHS[..]).prop_map(str::to_owned)
}

/// Offsets that meet, and miss, the borders of blocks and of each other.
fn offset() -> impl Strategy<Value = u64> {
    (0..24_u64, prop::sample::select(vec![0_u64, 0, 0, 1, 2, 4095, 2048, 100]))
        .prop_map(|(block, by)| block * 4096 + by)
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0..8_u64, 1..30_000_usize).prop_map(|(seed, len)| noise(seed, len)),
        1 => (1..10_usize).prop_map(|blocks| vec![0; blocks * 4096]),
        1 => (any::<u8>(), 1..20_000_usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => (0..8_u64, 1..5_usize).prop_map(|(seed, zeros)| [noise(seed, 4096), vec![0; zeros * 4096], noise(seed + 1, 5000)].concat()),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop::sample::select(vec![
        FileKind::File,
        FileKind::File,
        FileKind::File,
        FileKind::Dir,
        FileKind::Dir,
        FileKind::Symlink,
        FileKind::Fifo,
    ]);
    let ino = prop::option::of(257..270_u64);
    let len = || prop_oneof![offset(), 1..60_000_u64];
    prop_oneof![
        8 => (path(), kind, ino).prop_map(|(path, kind, ino)| Op::Create(path, kind, ino)),
        1 => (path(), 0..9_u32).prop_map(|(path, minor)| Op::Device(path, 1, minor)),
        2 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::RemoveDir),
        4 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (path(), 0..0o7777_u32).prop_map(|(path, mode)| Op::Mode(path, mode)),
        1 => (path(), -5..5_i64).prop_map(|(path, sec)| Op::Time(path, sec)),
        1 => (path(), "[ab]", prop::option::of(prop::collection::vec(any::<u8>(), 0..4))).prop_map(|(p, n, v)| Op::Xattr(p, n, v)),
        2 => (path(), "[xy/]{1,3}").prop_map(|(path, target)| Op::Target(path, target)),
        12 => (path(), offset(), data()).prop_map(|(path, offset, data)| Op::Write(path, offset, data)),
        4 => (path(), offset(), len(), any::<bool>()).prop_map(|(path, offset, len, extend)| Op::Zero(path, offset, len, extend)),
        8 => (path(), offset(), prop::option::of(0..3_usize), path(), offset(), len()).prop_map(
            |(to, offset, state, from, from_offset, len)| Op::Clone { to, offset, state, from, from_offset, len }
        ),
        3 => (path(), offset()).prop_map(|(path, size)| Op::Truncate(path, size)),
    ]
}

/// What every first state begins with, so that most changes find what they are about.
fn prelude() -> Vec<Op> {
    let create = |(n, path): (usize, &&str)| {
        let kind = if matches!(*path, "d" | "d/d" | "e") { FileKind::Dir } else { FileKind::File };
        Op::Create((*path).to_owned(), kind, Some(257 + n as u64))
    };
    let files = PATHS.iter().take(9).filter(|path| **path != "c").enumerate().map(create);
    let writes = ["a", "b", "d/a", "d/b"].into_iter().enumerate();
    files.chain(writes.map(|(n, path)| Op::Write(path.to_owned(), 0, noise(n as u64, 80_000)))).collect()
}

/// Three states of changes, and how little memory there is.
fn states() -> impl Strategy<Value = (Vec<Vec<Op>>, usize, usize)> {
    let ops = prop::collection::vec(prop::collection::vec(op(), 0..40), 1..4);
    (ops, prop::sample::select(vec![2000_usize, 20_000, 64 << 20]), prop::sample::select(vec![3_usize, 100_000]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 250 }))]

    #[test]
    fn applying_gives_what_a_naive_file_system_has((states, limit_bytes, max_extents) in states()) {
        let world = World { limit_bytes, max_extents, ..World::new() };
        let (mut model, mut models) = (Model::new(), Vec::new());
        for (number, ops) in states.iter().enumerate() {
            let (mut done, mut refused) = (Vec::new(), None);
            let prelude = if number == 0 { prelude() } else { Vec::new() };
            for op in prelude.iter().chain(ops) {
                let mut next = model.clone();
                match next.apply(op, &models) {
                    Some(()) => {
                        model = next;
                        done.push(op.clone());
                    }
                    None => refused = refused.or_else(|| Some([&done[..], std::slice::from_ref(op)].concat())),
                }
            }
            let parent = number.checked_sub(1);
            if let Some(refused) = refused {
                let sealed = world.states.lock().unwrap().len();
                prop_assert!(world.ingest(parent, &refused).is_err(), "{:?} should be refused", refused.last());
                prop_assert_eq!(world.states.lock().unwrap().len(), sealed);
            }
            if !model.is_complete() {
                prop_assert!(world.ingest(parent, &done).is_err(), "a symbolic link leads nowhere");
                break;
            }
            let sealed = world.ingest(parent, &done).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            let seen = world.read_back(&sealed);
            model.compare(&seen);
            models.push(model.clone());
            // The law: a full stream of this state ends in the same tree.
            if !model.has_devices() {
                let full = World { limit_bytes, max_extents, ..World::new() };
                let again = full.ingest(None, &model.full(&seen)).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
                prop_assert_eq!(full.read_back(&again).len(), seen.len());
                let (a, b) = (Sealed { next_ino: 0, ..again }, Sealed { next_ino: 0, ..sealed });
                prop_assert_eq!(a, b, "the law: a full stream ends in another root");
            }
        }
    }
}
