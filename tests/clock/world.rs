//! A repository over which years pass, and what must be in it by what everybody was told.

use super::policy::keeps;
use super::rig::Random;
use relict::store::{CreateOptions, OpenOptions, Repository, Writer, create};
use repo_format::{
    ChunkId, Counts, Dirent, Extent, FileKind, Inode, Key, NodeWriter, PointId, PointRecord, ROOT_INO, SegmentKind,
    SourceKind, Time,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

pub const DAY: i64 = 86_400;
/// Slack of clocks between hosts.
const BEHIND: i64 = 600;
/// Behind this, a clock that went on is not believed.
const AHEAD: i64 = 366 * DAY;

/// What is known of a restore point from outside.
#[derive(Debug, Clone)]
pub struct Known {
    pub time: i64,
    sealed: i64,
    content: Vec<u8>,
    hidden: bool,
    protected: bool,
    locked_until: Option<i64>,
    /// When a decision about it was written down.
    decided: Option<i64>,
}

/// The repository, the model of it, and the clock.
pub struct World {
    dir: TempDir,
    pub points: BTreeMap<String, Known>,
    pub random: Random,
    /// What the clock says, seconds since 1970.
    pub now: i64,
    made: u32,
}

impl World {
    pub fn new(random: Random, now: i64) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let options = CreateOptions { encrypt: false, ..CreateOptions::default() };
        create(&dir.path().join("repo"), &mut || Ok(Vec::new()), &options).unwrap();
        Self { dir, points: BTreeMap::new(), random, now, made: 0 }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn writer(&self) -> Writer {
        Writer::open(&self.repo(), &mut || Ok(Vec::new()), &OpenOptions { cache_bytes: 1 << 20 }).unwrap()
    }

    /// Backups of the days from the one at `now` on, by one process.
    pub fn days(&mut self, clocks: &[i64]) {
        let writer = self.writer();
        for clock in clocks {
            self.now = *clock;
            self.backup(&writer);
        }
    }

    /// A backup as any program makes it: content, tree, record. A part of the content is new every day, a part is not.
    fn backup(&mut self, writer: &Writer) {
        self.made += 1;
        let content = [format!("as of backup {}, ", self.made).as_bytes(), b"and what never changes"].concat();
        let chunk = |kind, bytes: &[u8]| {
            let id = writer.chunk_id(bytes);
            if writer.claim(&[id]).unwrap()[0] {
                writer.store_segment(kind, &[(id, bytes.len() as u32)], bytes).unwrap();
            }
            id
        };
        let (daily, always) = content.split_at(content.len() - 22);
        let mut node = NodeWriter::new(0);
        let time = Time { sec: self.now, nsec: self.made };
        let inode = |mode, nlink, size| {
            let (ctime, source) = (time, None);
            Inode {
                mode,
                uid: 0,
                gid: 0,
                nlink,
                size,
                mtime: time,
                ctime,
                btime: None,
                rdev: None,
                flags: 0,
                data_bytes: size,
                source,
            }
        };
        node.push(&Key::Inode(ROOT_INO).encode(), &Inode { data_bytes: 0, ..inode(0o040_755, 2, 0) }.encode());
        node.push(&Key::Dirent(ROOT_INO, b"file").encode(), &Dirent { ino: 2, kind: FileKind::File }.encode());
        node.push(&Key::Inode(2).encode(), &inode(0o100_644, 1, content.len() as u64).encode());
        let mut offset = 0;
        for part in [daily, always] {
            let extent = Extent { skip: 0, len: part.len() as u32, chunk: chunk(SegmentKind::Data, part) };
            node.push(&Key::Extent(2, offset).encode(), &extent.encode());
            offset += part.len() as u64;
        }
        let root = chunk(SegmentKind::Node, &node.finish());
        let point = self.record(writer, root, time);
        writer.seal(&point).unwrap();
        let known = Known {
            time: time.sec,
            sealed: time.sec,
            content,
            hidden: false,
            protected: false,
            locked_until: None,
            decided: None,
        };
        self.points.insert(point.id.to_string(), known);
    }

    fn record(&self, writer: &Writer, root: ChunkId, time: Time) -> PointRecord {
        let mut id = [7; 16];
        id[..4].copy_from_slice(&self.made.wrapping_mul(0x9e37_79b9).to_be_bytes());
        PointRecord {
            repo: writer.repository().header().repo,
            id: PointId(id),
            time,
            sealed: time,
            root,
            next_ino: 3,
            kind: SourceKind::Dir,
            host: b"host".to_vec(),
            source: b"daily".to_vec(),
            parent: None,
            counts: Counts { files: 1, dirs: 1, bytes: 0, ..Counts::default() },
            paths: vec![b"/".to_vec()],
            tags: Vec::new(),
            file_systems: Vec::new(),
            notes: Vec::new(),
            program: b"tests/clock".to_vec(),
            extra: Vec::new(),
        }
    }

    /// A program of ours, by this world's clock.
    pub fn run(&self, line: &str) -> Output {
        let mut words = line.split(' ');
        let program = Path::new(env!("CARGO_BIN_EXE_relict")).with_file_name(words.next().unwrap());
        assert!(program.exists(), "{} is missing: cargo build --release --workspace makes it", program.display());
        let real = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60"]).arg(program).args(words).stdin(Stdio::null());
        command.env("RELICT_REPOSITORY", self.repo()).env("RELICT_TEST_CLOCK", (self.now - real).to_string());
        command.env("LD_PRELOAD", library()).output().unwrap()
    }

    /// Runs a program that must end with this exit code; what it said.
    pub fn says(&self, line: &str, code: i32) -> String {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        text
    }

    /// The newest time that any record of the repository has.
    fn newest(&self) -> i64 {
        self.points.values().flat_map(|p| [Some(p.sealed), p.decided]).flatten().max().unwrap_or(i64::MIN)
    }

    /// Whether the clock must be doubted.
    pub fn doubtful(&self) -> bool {
        self.now < self.newest() - BEHIND || self.now > self.newest() + AHEAD
    }

    fn holds(&self, known: &Known) -> bool {
        known.protected || known.locked_until.is_some_and(|until| self.doubtful() || self.now < until)
    }

    fn visible(&self) -> Vec<String> {
        let mut ids: Vec<&String> = self.points.iter().filter(|(_, p)| !p.hidden).map(|(id, _)| id).collect();
        ids.sort_by_key(|id| std::cmp::Reverse((self.points[*id].time, (*id).clone())));
        ids.into_iter().cloned().collect()
    }

    /// Points whose time is more than a day to come.
    pub fn to_come(&self) -> Vec<String> {
        self.visible().into_iter().filter(|id| self.points[id].time > self.now + DAY).collect()
    }

    /// Forgets by the policy, in the repository and in the model.
    pub fn forget(&mut self) {
        use super::policy::{DAILY, MONTHLY, WEEKLY, YEARLY};
        let line = format!(
            "relict-maint forget --keep-daily {DAILY} --keep-weekly {WEEKLY} --keep-monthly {MONTHLY} --keep-yearly {YEARLY} --yes"
        );
        let (to_come, doubtful) = (self.to_come(), self.doubtful());
        let text = self.says(&line, if to_come.is_empty() { 0 } else { 3 });
        assert_eq!(text.contains("the clock says"), doubtful || !to_come.is_empty(), "{text}");
        if to_come.is_empty() {
            let ids = self.visible();
            let times: Vec<i64> = ids.iter().map(|id| self.points[id].time).collect();
            for (id, keep) in ids.iter().zip(keeps(&times)) {
                if !keep && !self.holds(&self.points[id]) {
                    self.hide(id);
                }
            }
        }
    }

    fn hide(&mut self, id: &str) {
        let now = self.now;
        let point = self.points.get_mut(id).unwrap();
        (point.hidden, point.decided) = (true, Some(now));
    }

    /// Forgets by name what is not held.
    pub fn forget_named(&mut self, ids: &[String]) {
        let free: Vec<String> = ids.iter().filter(|id| !self.holds(&self.points[*id])).cloned().collect();
        if !free.is_empty() && free.len() < self.visible().len() {
            self.says(&format!("relict-maint forget {} --yes", free.join(" ")), 0);
            free.iter().for_each(|id| self.hide(id));
        }
    }

    /// Protects a visible point, some of them until a date.
    pub fn protect(&mut self) {
        let ids = self.visible();
        let id = ids[self.random.below(ids.len() as u64) as usize].clone();
        let now = self.now;
        if self.random.below(2) == 0 {
            self.says(&format!("relict-maint protect {id} --yes"), 0);
            let before = std::mem::replace(&mut self.points.get_mut(&id).unwrap().protected, true);
            if before {
                return;
            }
        } else {
            let until = self.newest().max(now) / DAY * DAY + (30 + self.random.below(700) as i64) * DAY;
            let date = jiff::Timestamp::from_second(until).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ");
            let locked = self.points[&id].locked_until.is_some_and(|old| old > until);
            self.says(&format!("relict-maint protect {id} --until {date} --yes"), if locked { 2 } else { 0 });
            if locked {
                return;
            }
            let before = self.points.get_mut(&id).unwrap().locked_until.replace(until);
            if before == Some(until) {
                return;
            }
        }
        self.points.get_mut(&id).unwrap().decided = Some(now);
    }

    /// Removes what is forgotten, in the repository and in the model.
    pub fn prune(&mut self) {
        self.says("relict-maint prune --yes", 0);
        self.points.retain(|_, point| !point.hidden);
    }

    /// The restore points are those that must be there; `contents`: and hold what was backed up.
    pub fn agrees(&self, contents: bool) {
        let options = OpenOptions { cache_bytes: 1 << 20 };
        let repository = Repository::open(&self.repo(), &mut || Ok(Vec::new()), &options).unwrap();
        let mut found: Vec<String> = Vec::new();
        for (id, record) in repository.points().unwrap() {
            let (id, record) = (id.to_string(), record.unwrap());
            if contents {
                assert_eq!(read(&repository, &record), self.points[&id].content, "restore point {id}");
            }
            found.push(id);
        }
        found.sort();
        let visible = self.points.iter().filter(|(_, point)| !point.hidden);
        assert_eq!(found, visible.map(|(id, _)| id.clone()).collect::<Vec<_>>(), "at {}", self.now);
    }
}

fn read(repository: &Repository, record: &PointRecord) -> Vec<u8> {
    let tree = relict::restore::lookup::TreeReader::new(repository, record.root);
    let entry = tree.find(b"/file").unwrap();
    let mut cursor = tree.cursor();
    let size = tree.head(&mut cursor, entry.ino).unwrap().inode.size;
    let extents: Vec<_> = tree.extents(&mut cursor, entry.ino, size).map(Result::unwrap).collect();
    extents.iter().flat_map(|(_, extent)| repository.chunk(&extent.chunk).unwrap().to_vec()).collect()
}

/// The compiled clock.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (library, building) = (dir.join("clock.so"), dir.join(format!("clock-{}.so", std::process::id())));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/clock.c");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).args([&building, &source]);
        let output = cc.output().expect("a C compiler is needed, as for RocksDB");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // Tests run in processes of their own, at the same time: each finds a whole library.
        std::fs::rename(&building, &library).unwrap();
        library
    })
}
