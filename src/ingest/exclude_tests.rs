//! Tables of what is left out and what is kept.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

fn strings(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

/// Patterns, paths left out, paths kept.
type Row<'a> = (&'a [&'a str], &'a [&'a [u8]], &'a [&'a [u8]]);

/// A path ending in `/` is a directory.
fn is_excluded(excludes: &Excludes, path: &[u8]) -> bool {
    let (path, is_dir) = path.strip_suffix(b"/").map_or((path, false), |path| (path, true));
    excludes.excluded(Path::new(OsStr::from_bytes(path)), is_dir)
}

#[test]
fn patterns_by_table() {
    let table: &[Row] = &[
        (&["*.o"], &[b"/a.o", b"/src/deep/b.o", b"/x.o/"], &[b"/a.oo", b"/a.O", b"/o"]),
        (&["cache"], &[b"/cache", b"/home/u/cache/"], &[b"/cache2", b"/cache/inside"]),
        (&["cache/"], &[b"/home/cache/"], &[b"/home/cache"]),
        (&["/tmp"], &[b"/tmp/", b"/tmp"], &[b"/var/tmp/"]),
        (&["/tmp/*"], &[b"/tmp/x", b"/tmp/d/"], &[b"/tmp/", b"/tmp/d/x"]),
        (&["/tmp/**"], &[b"/tmp/x", b"/tmp/d/x"], &[b"/tmp/"]),
        (&["var/log"], &[b"/var/log/"], &[b"/mnt/var/log/"]),
        (&["**/var/log"], &[b"/var/log/", b"/mnt/var/log/"], &[b"/var/logs/"]),
        (&["/home/*/.cache"], &[b"/home/u/.cache/"], &[b"/home/u/v/.cache/"]),
        (&["*.log", "!keep.log"], &[b"/a.log"], &[b"/keep.log", b"/d/keep.log"]),
        (&["!keep.log", "*.log"], &[b"/keep.log"], &[]),
        (&["[ab]?"], &[b"/ax", b"/d/b1"], &[b"/cx", b"/a", b"/axx"]),
        (&["#*#"], &[b"/#draft#"], &[b"/draft"]),
        (&["\\!important"], &[b"/!important"], &[b"/important"]),
        (&["with space"], &[b"/with space"], &[b"/with"]),
        (&["\u{e4}*"], &[b"/\xc3\xa4x"], &[b"/ax"]),
        (&["a*b"], &[b"/a\xff\xfeb", b"/a\nb"], &[b"/a/b", b"/a\xff"]),
        (&["{a,b}.txt"], &[b"/a.txt", b"/b.txt"], &[b"/c.txt"]),
        (&["*"], &[b"/a", b"/d/e"], &[b"/"]),
        (&[], &[], &[b"/", b"/a"]),
    ];
    for (patterns, left_out, kept) in table {
        let options = ExcludeOptions { exclude: strings(patterns), ..ExcludeOptions::default() };
        let excludes = Excludes::new(&options).unwrap();
        for path in *left_out {
            assert!(is_excluded(&excludes, path), "{patterns:?} must leave out {}", path.escape_ascii());
        }
        for path in *kept {
            assert!(!is_excluded(&excludes, path), "{patterns:?} must keep {}", path.escape_ascii());
        }
    }
}

#[test]
fn nothing_wanted_costs_nothing() {
    let excludes = Excludes::new(&ExcludeOptions::default()).unwrap();
    assert!(excludes.patterns.is_none() && !excludes.has_markers());
    assert!(!excludes.excluded_by_size(u64::MAX));
    let only_comments = tempfile::NamedTempFile::new().unwrap();
    fs::write(only_comments.path(), "# nothing\n\n   \n").unwrap();
    let options = ExcludeOptions { exclude_files: vec![only_comments.path().into()], ..Default::default() };
    assert!(Excludes::new(&options).unwrap().patterns.is_none());
}

#[test]
fn case_counts_only_without_i() {
    let options = ExcludeOptions {
        exclude: strings(&["*.Tmp"]),
        iexclude: strings(&["*.BAK", "!keep.bak"]),
        ..ExcludeOptions::default()
    };
    let excludes = Excludes::new(&options).unwrap();
    for (path, expected) in
        [("/a.Tmp", true), ("/a.tmp", false), ("/a.bak", true), ("/a.BaK", true), ("/KEEP.BAK", false)]
    {
        assert_eq!(is_excluded(&excludes, path.as_bytes()), expected, "{path}");
    }
}

#[test]
fn pattern_files_come_first() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"\xef\xbb\xbf*.iso\r\n# comment\n\n!mine.iso  \n\\#hash\n*.vm").unwrap();
    let options = ExcludeOptions {
        exclude: strings(&["!last.vm"]),
        exclude_files: vec![file.path().into()],
        ..ExcludeOptions::default()
    };
    let excludes = Excludes::new(&options).unwrap();
    for (path, expected) in
        [("/a.iso", true), ("/mine.iso", false), ("/#hash", true), ("/a.vm", true), ("/last.vm", false)]
    {
        assert_eq!(is_excluded(&excludes, path.as_bytes()), expected, "{path}");
    }
}

#[test]
fn bad_patterns_say_what_and_where() {
    let refused = |options: ExcludeOptions| {
        let error = Excludes::new(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    };
    for pattern in ["x[", "", "  ", "!", "/", "{a", "a{b,c"] {
        let text = refused(ExcludeOptions { exclude: strings(&["ok", pattern]), ..Default::default() });
        assert!(
            text.contains("--exclude") && text.contains(&format!("{:?}", pattern.trim_end())) || pattern == "  ",
            "{text}"
        );
        let text = refused(ExcludeOptions { iexclude: strings(&[pattern]), ..Default::default() });
        assert!(text.contains("--iexclude"), "{text}");
    }
    for (content, expected) in [(&b"ok\n# c\n[z-a]\n"[..], ":3)"), (b"[\xff]\n", ":1)"), (b"\r\n!\r\n", ":2)")] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let text = refused(ExcludeOptions { exclude_files: vec![file.path().into()], ..Default::default() });
        assert!(text.contains(expected) && text.contains(&*file.path().to_string_lossy()), "{text}");
    }
    for marker in ["", ":x", "a/b", "..", ".:x"] {
        refused(ExcludeOptions { exclude_if_present: strings(&[marker]), ..Default::default() });
    }
    let missing = ExcludeOptions { exclude_files: vec!["no/such/file".into()], ..Default::default() };
    assert_eq!(Excludes::new(&missing).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn marked_directories() {
    let options = ExcludeOptions {
        exclude_caches: true,
        exclude_if_present: strings(&[".nobackup", "TAG:he:ad"]),
        ..ExcludeOptions::default()
    };
    let excludes = Excludes::new(&options).unwrap();
    let signed: Vec<u8> = [CACHE_TAG_HEADER, b"\n# a comment\n"].concat();
    let table: &[(&str, &[u8], bool)] = &[
        ("CACHEDIR.TAG", &signed, true),
        ("CACHEDIR.TAG", CACHE_TAG_HEADER, true),
        ("CACHEDIR.TAG", b"", false),
        ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc5", false),
        ("CACHEDIR.TAG", b"signature: 8a477f597d28d172789f06886806bc55", false),
        ("cachedir.tag", &signed, false),
        (".nobackup", b"", true),
        ("TAG", b"he:ad and more", true),
        ("TAG", b"he", false),
        ("other", b"", false),
    ];
    for (name, content, expected) in table {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(name), content).unwrap();
        let marker = excludes.dir_is_marked(&Dir::open_root(temp.path()).unwrap()).unwrap();
        assert_eq!(marker, expected.then(|| Marker { name: name.as_bytes().to_vec() }), "{name}");
    }
}

#[test]
fn only_regular_files_are_tags_with_a_header() {
    let options =
        ExcludeOptions { exclude_caches: true, exclude_if_present: strings(&[".skip"]), ..Default::default() };
    let excludes = Excludes::new(&options).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open_root(temp.path()).unwrap();
    fs::write(temp.path().join("real"), CACHE_TAG_HEADER).unwrap();
    dir.symlink(b"real", b"CACHEDIR.TAG").unwrap();
    assert_eq!(excludes.dir_is_marked(&dir).unwrap(), None);
    dir.unlink(b"CACHEDIR.TAG").unwrap();
    dir.mkdir(b"CACHEDIR.TAG", 0o700).unwrap();
    assert_eq!(excludes.dir_is_marked(&dir).unwrap(), None);
    dir.rmdir(b"CACHEDIR.TAG").unwrap();
    dir.mknod(b"CACHEDIR.TAG", crate::os::FileKind::Fifo, 0o600, (0, 0)).unwrap();
    assert_eq!(excludes.dir_is_marked(&dir).unwrap(), None);
    dir.symlink(b"dangling", b".skip").unwrap();
    assert_eq!(excludes.dir_is_marked(&dir).unwrap(), Some(Marker { name: b".skip".to_vec() }));
}

#[test]
fn pattern_files_need_not_be_text() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("patterns");
    std::fs::write(&file, b"# caf\xe9\n/home/Gem\xe4lde/\n\xc3\xa4\xff*\n").unwrap();
    let options = ExcludeOptions { exclude_files: vec![file.clone()], ..Default::default() };
    let excludes = Excludes::new(&options).unwrap();
    for path in [&b"/home/Gem\xe4lde/"[..], b"/d/\xc3\xa4\xff", b"/\xc3\xa4\xfe-any high byte"] {
        assert!(is_excluded(&excludes, path), "{}", path.escape_ascii());
    }
    for path in
        [&b"/home/Gemalde/"[..], b"/home/Gem\xe4lde", b"/caf\xe9", b"/\xc3\xa4x", b"/home/Gem/lde/", b"/home/Gemlde/"]
    {
        assert!(!is_excluded(&excludes, path), "{}", path.escape_ascii());
    }
    std::fs::write(&file, b"ok\n[\xe4]x\n").unwrap();
    let error = Excludes::new(&options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("patterns:2"), "{error}");
}

#[test]
fn sizes() {
    let table: &[(&str, Option<u64>)] = &[
        ("0", Some(0)),
        ("1000", Some(1000)),
        ("10M", Some(10 << 20)),
        ("1g", Some(1 << 30)),
        ("2 KiB", Some(2048)),
        ("3TB", Some(3 << 40)),
        ("7b", Some(7)),
        ("16383P", Some(16383 << 50)),
        ("16384P", None),
        ("99999999999999999999", None),
        ("", None),
        ("M", None),
        ("-1", None),
        ("1.5G", None),
        ("1X", None),
        ("1MM", None),
        ("\u{e4}", None),
    ];
    for (text, expected) in table {
        assert_eq!(parse_size(text).ok(), *expected, "{text}");
    }
    let options = ExcludeOptions { exclude_larger_than: Some(100), ..Default::default() };
    let excludes = Excludes::new(&options).unwrap();
    assert!(excludes.excluded_by_size(101) && !excludes.excluded_by_size(100));
}
