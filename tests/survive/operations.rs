//! The table of everything that changes a repository: a new operation is one row here, and is killed, failed, cut off
//! from power and run beside others by every test of this program.

use repo_format::StoreKind;

/// A step that makes a scene, before anything is disturbed.
#[derive(Debug, Clone, Copy)]
pub enum Before {
    /// The source and the disk change.
    Change,
    /// A program runs, undisturbed; what it is called with is as in [`Operation::args`].
    Run(&'static str, &'static [&'static str]),
    /// A backup is killed in its second half.
    KilledBackup,
    /// The repository is copied to `COPY`.
    Copy,
    /// A part of the largest package becomes zeros.
    Damage,
    /// `db/` is lost.
    LoseIndex,
    /// A server gives the disk over NBD, until the scene ends.
    Serve,
}

/// What an operation does to the list of restore points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It makes new ones.
    Makes,
    /// It hides some.
    Hides,
    /// Files leave some, and some go with all their files.
    Thins,
    /// It shows hidden ones again.
    Shows,
    /// All stay as they are.
    Keeps,
}

/// What is disturbed.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub name: &'static str,
    pub store: StoreKind,
    /// How the scene is made.
    pub before: &'static [Before],
    /// The program and its arguments. In them `SOURCE`, `DISK`, `LIST`, `FULL`, `DIFF`, `STEP0`, `STEP1`, `COPY`,
    /// `NBD` (the disk's URI), `SNAPSHOT`, `POINT0` (the id of a point) and `SLOT1` (a key slot added last) stand for what the scene has.
    pub program: &'static str,
    pub args: &'static [&'static str],
    pub ends: Ends,
    /// The repository is damaged before: nothing is asked of it until the operation has run undisturbed.
    pub broken: bool,
    /// Passwords change: whether the old one and the new one open the repository when it is done. Before, either may.
    pub keys: Option<(bool, bool)>,
    /// Exit codes that are right when it runs again after it was done.
    pub again: &'static [i32],
    /// What must be possible afterwards: program, arguments, exit code.
    pub then: &'static [(&'static str, &'static [&'static str], i32)],
}

const BACKUP_ARGS: &[&str] = &["--quiet", "backup", "SOURCE"];
const BACKUP: Before = Before::Run("relict", BACKUP_ARGS);
const TWO: &[Before] = &[Before::Change, BACKUP, Before::Change, BACKUP, Before::Change];
const FORGET_ARGS: &[&str] = &["--quiet", "forget", "--yes", "--keep-last", "1"];
const FORGET: Before = Before::Run("relict-maint", FORGET_ARGS);
const THIN_ARGS: &[&str] = &["--quiet", "forget", "--yes", "--keep-last", "1", "--keep-versions", "2"];
const THIN: Before = Before::Run("relict-maint", THIN_ARGS);
const FORGOTTEN: &[Before] = &[Before::Change, BACKUP, Before::Change, BACKUP, Before::Change, BACKUP, FORGET];

/// What rows have in common.
pub const BASE: Operation = Operation {
    name: "",
    store: StoreKind::Files,
    before: TWO,
    program: "relict",
    args: BACKUP_ARGS,
    ends: Ends::Makes,
    broken: false,
    keys: None,
    again: &[0],
    then: &[],
};

/// What rows of `relict-maint` have in common.
pub const MAINT: Operation = Operation { program: "relict-maint", ends: Ends::Keeps, ..BASE };

/// Gives the table to another macro: `$with! { $arguments; name: row; ... }`.
macro_rules! operations {
    ($with:ident $($argument:path)?) => { $with! { $($argument)?;
        first_backup: Operation { before: &[Before::Change], ..BASE };
        backup: BASE;
        unchanged_backup: Operation { before: &[Before::Change, BACKUP], ..BASE };
        backup_after_a_kill: Operation {
            before: &[Before::Change, BACKUP, Before::Change, BACKUP, Before::Change, Before::KilledBackup], ..BASE
        };
        backup_of_a_snapshot: Operation {
            args: &[
                "--quiet", "backup", "SOURCE", "--snapshot-command", "create=cp -a SOURCE SNAPSHOT", "path=SNAPSHOT",
                "delete=rm -rf SNAPSHOT",
            ],
            ..BASE
        };
        backup_into_blobs: Operation { store: StoreKind::RocksDb, ..BASE };
        image: Operation { args: IMAGE, ..BASE };
        image_again: Operation { before: &[BACKUP, Before::Run("relict", IMAGE), Before::Change], args: IMAGE, ..BASE };
        image_by_a_list: Operation {
            before: &[BACKUP, Before::Run("relict", IMAGE_S1), Before::Change],
            args: &[
                "--quiet", "ingest", "image", "DISK", "--source", "h:vm/sda", "--state", "s2", "--extents", "LIST",
                "--time", TIME,
            ],
            ..BASE
        };
        image_over_nbd: Operation {
            before: &[BACKUP, Before::Run("relict", IMAGE), Before::Change, Before::Serve],
            args: &["--quiet", "ingest", "image", "--nbd", "NBD", "--source", "h:vm/sda", "--time", TIME],
            ..BASE
        };
        rbd: Operation { args: &["--quiet", "ingest", "rbd", "FULL", "--source", "ceph:p/vm", "--time", TIME], ..BASE };
        rbd_diff: Operation {
            before: &[BACKUP, Before::Run("relict", &["--quiet", "ingest", "rbd", "FULL", "--source", "ceph:p/vm", "--time", TIME])],
            args: &["--quiet", "ingest", "rbd", "DIFF", "--source", "ceph:p/vm", "--time", TIME],
            ..BASE
        };
        btrfs: Operation { args: &["--quiet", "ingest", "btrfs", "STEP0", "--source", "nas:data"], ..BASE };
        btrfs_increment: Operation {
            before: &[BACKUP, Before::Run("relict", &["--quiet", "ingest", "btrfs", "STEP0", "--source", "nas:data"])],
            args: &["--quiet", "ingest", "btrfs", "STEP1", "--source", "nas:data"],
            ..BASE
        };
        forget: Operation {
            args: FORGET_ARGS,
            ends: Ends::Hides,
            then: &[("relict-maint", &["--quiet", "undelete"], 0)],
            ..MAINT
        };
        thin: Operation {
            before: &[Before::Change, BACKUP, Before::Change, BACKUP, Before::Change, BACKUP],
            args: THIN_ARGS,
            ends: Ends::Thins,
            ..MAINT
        };
        prune_of_what_was_thinned: Operation {
            before: &[Before::Change, BACKUP, Before::Change, BACKUP, Before::Change, BACKUP, THIN],
            args: &["--quiet", "prune", "--yes"],
            ..MAINT
        };
        undelete: Operation {
            before: FORGOTTEN, args: &["--quiet", "undelete"], ends: Ends::Shows, again: &[0, 1], ..MAINT
        };
        protect: Operation {
            args: &["--quiet", "protect", "POINT0"],
            then: &[("relict-maint", &["--quiet", "forget", "--yes", "POINT0"], 2)],
            ..MAINT
        };
        prune: Operation { before: FORGOTTEN, args: &["--quiet", "prune", "--yes"], ..MAINT };
        prune_what_a_kill_left: Operation {
            before: &[Before::Change, BACKUP, Before::Change, Before::KilledBackup],
            args: &["--quiet", "prune", "--yes", "--discard-unfinished"],
            ..MAINT
        };
        prune_of_blobs: Operation {
            store: StoreKind::RocksDb, before: FORGOTTEN, args: &["--quiet", "prune", "--yes"], ..MAINT
        };
        compact: Operation {
            before: &[
                Before::Change, BACKUP, Before::Change, BACKUP, Before::Change, BACKUP, FORGET,
                Before::Run("relict-maint", &["--quiet", "prune", "--yes"]),
            ],
            args: &["--quiet", "compact", "--yes", "--min-live", "1"],
            ..MAINT
        };
        rebuild: Operation { args: &["--quiet", "rebuild"], ..MAINT };
        rebuild_of_a_lost_index: Operation {
            before: &[Before::Change, BACKUP, Before::Change, BACKUP, FORGET, Before::LoseIndex],
            args: &["--quiet", "rebuild"],
            broken: true,
            ..MAINT
        };
        repair_of_a_lost_index: Operation {
            before: &[Before::Change, BACKUP, Before::Change, BACKUP, Before::LoseIndex],
            args: &["--quiet", "repair", "--yes"],
            broken: true,
            ..MAINT
        };
        repair_from_a_copy: Operation {
            before: &[Before::Change, BACKUP, Before::Change, BACKUP, Before::Copy, Before::Damage],
            args: &["--quiet", "repair", "--yes", "--from", "COPY"],
            broken: true,
            ..MAINT
        };
        key_add: Operation { args: &["--quiet", "keys", "add", "--label", "new"], keys: Some((true, true)), ..MAINT };
        key_change: Operation { args: &["--quiet", "keys", "change"], keys: Some((false, true)), ..MAINT };
        key_remove: Operation {
            before: &[Before::Change, BACKUP, Before::Run("relict-maint", &["--quiet", "keys", "add", "--label", "second"])],
            args: &["--quiet", "keys", "remove", "SLOT1"],
            keys: Some((true, false)),
            again: &[0, 1],
            ..MAINT
        };
    } };
}
pub(crate) use operations;

/// All states of disks were taken at the same time, so that equal disks are equal trees.
const TIME: &str = "2026-11-21T10:00:00Z";
const IMAGE: &[&str] = &["--quiet", "ingest", "image", "DISK", "--source", "h:vm/sda", "--time", TIME];
const IMAGE_S1: &[&str] =
    &["--quiet", "ingest", "image", "DISK", "--source", "h:vm/sda", "--state", "s1", "--time", TIME];

macro_rules! list {
    (; $($name:ident: $row:expr;)*) => {
        /// Every operation that is disturbed.
        pub const OPERATIONS: &[Operation] = &[$(Operation { name: stringify!($name), ..$row }),*];
    };
}
operations!(list);

/// One test an operation, each calling `$fault` with it.
macro_rules! tests {
    ($fault:path; $($name:ident: $row:expr;)*) => {
        $(#[test] fn $name() { $fault(crate::operations::named(stringify!($name))); })*
    };
}
pub(crate) use tests;

/// What rots: two points, and an older state of everything beside.
pub const ROTTEN: Operation =
    Operation { name: "rot", before: &[Before::Change, BACKUP, Before::Copy, Before::Change, BACKUP], ..BASE };

/// The row of this name.
pub fn named(name: &str) -> Operation {
    *OPERATIONS.iter().find(|operation| operation.name == name).unwrap()
}
