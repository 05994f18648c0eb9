//! Sequences of changes with the tree they must give, and sequences that must be refused.

use super::*;

fn create(path: &str, kind: FileKind, ino: u64) -> Op {
    Op::Create(path.into(), kind, Some(ino))
}

fn file(path: &str, ino: u64) -> Op {
    create(path, FileKind::File, ino)
}

fn dir(path: &str, ino: u64) -> Op {
    create(path, FileKind::Dir, ino)
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename(from.into(), to.into())
}

fn write(path: &str, offset: u64, data: &[u8]) -> Op {
    Op::Write(path.into(), offset, data.to_vec())
}

/// Paths with their inode numbers, and `name=content` of files that are not empty.
fn listing(world: &World, sealed: &Sealed) -> Vec<String> {
    let seen = world.read_back(sealed);
    let one = |(path, one): (&String, &Seen)| {
        let content =
            if one.data.is_empty() { String::new() } else { format!("={}", String::from_utf8_lossy(&one.data)) };
        format!("{} {path}{content}", one.ino)
    };
    seen.iter().skip(1).map(one).collect()
}

/// What it is about, the states' changes, and the listing of the last.
type Row = (&'static str, Vec<Vec<Op>>, Vec<&'static str>);

#[test]
fn sequences_give_the_trees_they_say() {
    let rows: Vec<Row> = vec![
        ("nothing", vec![vec![]], vec![]),
        ("the source's numbers are kept", vec![vec![file("b", 300), file("a", 258)]], vec!["258 a", "300 b"]),
        (
            "a number that is taken is not given twice",
            vec![vec![file("a", 258), file("b", 258)]],
            vec!["258 a", "259 b"],
        ),
        ("a number of the root's is not taken", vec![vec![file("a", 1), file("b", 0)]], vec!["2 a", "3 b"]),
        ("nor one that is too large", vec![vec![file("a", u64::MAX), file("b", 1 << 40)]], vec!["2 a", "3 b"]),
        (
            "btrfs: an inode appears under a name of its own and moves to its place",
            vec![vec![
                dir("o257-7-0", 257),
                rename("o257-7-0", "d"),
                file("o258-7-0", 258),
                rename("o258-7-0", "d/f"),
                write("d/f", 0, b"x"),
            ]],
            vec!["257 d", "258 d/f=x"],
        ),
        (
            "a directory that is to go gives its number to a new file at once",
            vec![
                vec![dir("d", 257), file("d/x", 258)],
                vec![
                    rename("d", "o257-5-0"),
                    file("n", 257),
                    Op::Unlink("o257-5-0/x".into()),
                    Op::RemoveDir("o257-5-0".into()),
                ],
            ],
            vec!["257 n"],
        ),
        (
            "and gets a new one if it stays after all",
            vec![
                vec![dir("d", 257), file("d/x", 258), dir("d/e", 259)],
                vec![rename("d", "o"), dir("n", 257), rename("o", "n/o")],
            ],
            vec!["257 n", "260 n/o", "259 n/o/e", "258 n/o/x"],
        ),
        (
            "one that was not moved keeps it",
            vec![vec![dir("d", 257)], vec![file("d/f", 257), write("d/f", 0, b"x")]],
            vec!["257 d", "258 d/f=x"],
        ),
        (
            "a new file may be in the directory that gives it its number",
            vec![vec![dir("d", 257)], vec![rename("d", "e"), file("e/f", 257), write("e/f", 0, b"x")]],
            vec!["258 e", "257 e/f=x"],
        ),
        (
            "swapped by way of a third name",
            vec![vec![dir("a", 257), file("b", 258)], vec![rename("a", "t"), rename("b", "a"), rename("t", "b")]],
            vec!["258 a", "257 b"],
        ),
        (
            "parent and child change places",
            vec![vec![dir("p", 257), dir("p/c", 258)], vec![rename("p/c", "t"), rename("p", "t/p"), rename("t", "c")]],
            vec!["258 c", "257 c/p"],
        ),
        (
            "a link outlives the name it was made from",
            vec![
                vec![file("a", 257), write("a", 0, b"one")],
                vec![Op::Link("b".into(), "a".into()), Op::Unlink("a".into()), write("b", 1, b"NE")],
            ],
            vec!["257 b=oNE"],
        ),
        (
            "an unlinked number comes again as another file",
            vec![
                vec![file("a", 257), write("a", 0, b"old")],
                vec![Op::Unlink("a".into()), file("a", 257), write("a", 0, b"n")],
            ],
            vec!["257 a=n"],
        ),
        (
            "written past the end, then cut",
            vec![vec![file("a", 257), write("a", 0, b"12345678"), Op::Truncate("a".into(), 5)]],
            vec!["257 a=12345"],
        ),
        (
            "a clone sees what was written before, under the name of the moment",
            vec![vec![
                file("a", 257),
                write("a", 0, b"abcdef"),
                rename("a", "x"),
                file("b", 258),
                Op::Clone { to: "b".into(), offset: 0, state: None, from: "x".into(), from_offset: 0, len: 6 },
                write("x", 0, b"ABC"),
            ]],
            vec!["258 b=abcdef", "257 x=ABCdef"],
        ),
    ];
    for (what, states, expected) in rows {
        for limit_bytes in [0, 64 << 20] {
            let world = World { limit_bytes, ..World::new() };
            let mut sealed = Vec::new();
            for (n, ops) in states.iter().enumerate() {
                sealed.push(world.ingest(n.checked_sub(1), ops).unwrap_or_else(|e| panic!("{what}: {e}")));
            }
            assert_eq!(listing(&world, sealed.last().unwrap()), expected, "{what}, {limit_bytes} bytes");
        }
    }
}

#[test]
fn what_must_not_be_is_refused_and_changes_nothing() {
    let base = [
        dir("d", 257),
        file("d/f", 258),
        create("l", FileKind::Symlink, 259),
        Op::Target("l".into(), "d".into()),
        file("f", 260),
        create("p", FileKind::Fifo, 261),
    ];
    let long = "x".repeat(256);
    let rows = [
        ("empty part", file("d//x", 9), "has an empty part"),
        ("absolute", file("/etc/x", 9), "is an absolute path"),
        ("slash at the end", file("x/", 9), "has an empty part"),
        ("dots", file("../x", 9), "is . or .."),
        ("dot", file("d/./x", 9), "is . or .."),
        ("NUL", file("a\0b", 9), "has a NUL byte"),
        ("long name", file(&long, 9), "more than 255 bytes"),
        ("the root", file("", 9), "is the root"),
        ("through a symbolic link", file("l/x", 9), "'l' is a symbolic link"),
        ("through a file", file("f/x", 9), "'f' is not a directory"),
        ("no such directory", file("nix/x", 9), "'nix' does not exist"),
        ("create what is there", file("f", 9), "'f' exists already"),
        ("link to what is there", Op::Link("d/f".into(), "f".into()), "'d/f' exists already"),
        ("rename to what is there", rename("f", "d/f"), "'d/f' exists already"),
        ("rename to itself", rename("f", "f"), "'f' exists already"),
        ("rename out", rename("f", "../f"), "is . or .."),
        ("rename the root", rename("", "x"), "is the root"),
        ("link to a directory", Op::Link("x".into(), "d".into()), "is a directory, which has one name"),
        ("unlink a directory", Op::Unlink("d".into()), "is a directory"),
        ("unlink nothing", Op::Unlink("nix".into()), "does not exist"),
        ("rmdir of a file", Op::RemoveDir("f".into()), "is not a directory"),
        ("rmdir of a full one", Op::RemoveDir("d".into()), "is a directory that is not empty"),
        ("rmdir of the root", Op::RemoveDir(String::new()), "cannot be removed"),
        ("cycle", rename("d", "d/d"), "its own ancestor"),
        ("write to a directory", write("d", 0, b"x"), "is a directory, which has no content"),
        ("write to a pipe", write("p", 0, b"x"), "is not a regular file"),
        ("write behind the end of the world", write("f", i64::MAX as u64, b"x"), "2^63 - 1"),
        ("write that wraps", write("f", u64::MAX, b"xx"), "2^63 - 1"),
        ("hole that wraps", Op::Zero("f".into(), u64::MAX - 1, 5, true), "2^63 - 1"),
        ("truncate too far", Op::Truncate("f".into(), u64::MAX), "2^63 - 1"),
        (
            "clone of nothing",
            Op::Clone { to: "f".into(), offset: 0, state: None, from: "nix".into(), from_offset: 0, len: 1 },
            "does not exist",
        ),
        (
            "clone of a directory",
            Op::Clone { to: "f".into(), offset: 0, state: None, from: "d".into(), from_offset: 0, len: 1 },
            "has no content",
        ),
        (
            "clone past the end",
            Op::Clone { to: "f".into(), offset: 0, state: None, from: "d/f".into(), from_offset: 0, len: 1 },
            "ends at byte 0",
        ),
        (
            "clone from another world",
            Op::Clone { to: "f".into(), offset: 0, state: Some(9), from: "f".into(), from_offset: 0, len: 1 },
            "no such state",
        ),
        (
            "clone that wraps",
            Op::Clone { to: "f".into(), offset: 0, state: None, from: "f".into(), from_offset: u64::MAX, len: 2 },
            "2^63 - 1",
        ),
        ("mode with a type", Op::Mode("f".into(), 0o100_644), "more than permissions"),
        ("empty target", Op::Target("l".into(), String::new()), "gets a target that is empty"),
        ("target of a file", Op::Target("f".into(), "x".into()), "is not a symbolic link"),
        ("attribute without a name", Op::Xattr("f".into(), String::new(), None), "whose name is empty"),
        (
            "attribute that is too long",
            Op::Xattr("f".into(), "x".into(), Some(vec![0; 65_537])),
            "more than 65536 bytes",
        ),
        ("link that leads nowhere", create("n", FileKind::Symlink, 9), "leads nowhere"),
        ("content that is not in the source", Op::Changed("f".into(), 0, 10), "no f"),
    ];
    let world = World::new();
    let first = world.ingest(None, &base).unwrap();
    let before = world.read_back(&first);
    for (what, op, message) in rows {
        let error = world.ingest(Some(0), &[op]).expect_err(what).to_string();
        assert!(error.contains(message), "{what}: {error}");
    }
    assert_eq!(world.states.lock().unwrap().len(), 1);
    assert_eq!(world.read_back(&first), before);
}

#[test]
fn content_is_read_under_the_name_that_the_file_has_at_the_end() {
    let world = World::new();
    let data = noise(3, 50_000);
    world.source.lock().unwrap().insert("d/new".into(), data.clone());
    let ops = [
        dir("o257-1-0", 257),
        file("o258-1-0", 258),
        Op::Changed("o258-1-0".into(), 0, 50_000),
        rename("o258-1-0", "o257-1-0/new"),
        rename("o257-1-0", "d"),
    ];
    let sealed = world.ingest(None, &ops).unwrap();
    assert!(world.read_back(&sealed)["d/new"].data == data);
    world.source.lock().unwrap().insert("d/new".into(), data[..100].to_vec());
    let error = world.ingest(Some(0), &[Op::Changed("d/new".into(), 0, 50_000)]).unwrap_err().to_string();
    assert!(error.contains("d/new ends at byte 100 in the source"), "{error}");
}

/// As any error does, also where other workers are alive and wait.
#[test]
fn a_worker_that_panics_ends_the_ingest() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let world = World::new();
        world.panics.store(true, Relaxed);
        let ops: Vec<Op> = (0..200).map(|n| write("a", n << 20, &noise(n, 1 << 20))).collect();
        let run = || world.ingest(None, &[&[file("a", 300)], &ops[..]].concat());
        let _ = done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    });
    let panicked = ended.recv_timeout(std::time::Duration::from_secs(60));
    assert_eq!(panicked, Ok(true), "it hangs, or the panic is lost");
}
