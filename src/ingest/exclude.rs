//! What a backup leaves out: patterns as in `.gitignore`, marked directories, and large files.
//!
//! Patterns see the absolute path of an item, and a leading `/` is the root of the file system. As in
//! git, a pattern with a `/` before its end is anchored too (write `**/a/b` to find it anywhere), the
//! last pattern that matches decides, `!` takes an item back in, and nothing below an excluded directory
//! is looked at. Order: pattern files, then `exclude`, then `iexclude`. Case is ignored for ASCII letters
//! only: names are bytes.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::os::{Dir, pread_exact_or_short, stat_file};
use crate::{Error, ErrorKind, Result};

/// Name of the tag that marks a cache (bford.info/cachedir).
const CACHE_TAG_NAME: &str = "CACHEDIR.TAG";

/// What a cache tag begins with; without it, it is just a file of that name.
const CACHE_TAG_HEADER: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// What the user wants to be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExcludeOptions {
    /// Patterns.
    pub exclude: Vec<String>,
    /// Patterns that ignore case (of ASCII letters).
    pub iexclude: Vec<String>,
    /// Files of patterns, one a line, with `#` comments.
    pub exclude_files: Vec<PathBuf>,
    /// Leave out the content of directories with a valid `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Leave out the content of directories that have a file: `NAME`, or `NAME:HEADER` if the file must
    /// begin with HEADER.
    pub exclude_if_present: Vec<String>,
    /// Leave out regular files of more bytes than this; see [`parse_size`].
    pub exclude_larger_than: Option<u64>,
}

/// [`ExcludeOptions`], ready to ask.
#[derive(Debug, Clone)]
pub struct Excludes {
    patterns: Option<Gitignore>,
    tags: Vec<Tag>,
    larger_than: u64,
}

#[derive(Debug, Clone)]
struct Tag {
    name: Vec<u8>,
    header: Vec<u8>,
}

/// Why the content of a directory is left out. The directory itself is kept, and so is the file that
/// marks it, so that a restored tree is marked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Name of the file that marks the directory.
    pub name: Vec<u8>,
}

impl Default for Excludes {
    /// Nothing is left out.
    fn default() -> Self {
        Self { patterns: None, tags: Vec::new(), larger_than: u64::MAX }
    }
}

impl Excludes {
    /// Reads the pattern files and compiles all patterns.
    ///
    /// # Errors
    /// `Usage` for a bad pattern or marker, with the text of it and where it stands; `Io` for a
    /// pattern file that cannot be read.
    pub fn new(options: &ExcludeOptions) -> Result<Self> {
        let mut tags = Vec::new();
        if options.exclude_caches {
            tags.push(Tag { name: CACHE_TAG_NAME.into(), header: CACHE_TAG_HEADER.into() });
        }
        for text in &options.exclude_if_present {
            tags.push(Tag::parse(text)?);
        }
        let larger_than = options.exclude_larger_than.unwrap_or(u64::MAX);
        Ok(Self { patterns: compile(options)?, tags, larger_than })
    }

    /// Whether a pattern leaves out the item at this absolute path. Looks at the item alone: the walk
    /// does not enter what is excluded, and what the user named as a source is not excluded by a pattern
    /// that matches above it.
    #[must_use]
    pub fn excluded(&self, path: &Path, is_dir: bool) -> bool {
        match &self.patterns {
            None => false,
            Some(_) if path.parent().is_none() => false,
            Some(patterns) => patterns.matched(path, is_dir).is_ignore(),
        }
    }

    /// Whether a regular file of this many bytes is left out.
    #[must_use]
    pub const fn excluded_by_size(&self, size: u64) -> bool {
        size > self.larger_than
    }

    /// What marks a directory as one whose content is left out, if anything does.
    ///
    /// # Errors
    /// As open(2) and read(2) of the file that would mark it; the caller then keeps the content.
    pub fn dir_is_marked(&self, dir: &Dir) -> io::Result<Option<Marker>> {
        for tag in &self.tags {
            if tag.is_in(dir)? {
                return Ok(Some(Marker { name: tag.name.clone() }));
            }
        }
        Ok(None)
    }

    /// Whether any directory can be marked, for a walk that would look at its listing first.
    #[must_use]
    pub const fn has_markers(&self) -> bool {
        !self.tags.is_empty()
    }
}

impl Tag {
    fn parse(text: &str) -> Result<Self> {
        let (name, header) = text.split_once(':').unwrap_or((text, ""));
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(Error::new(ErrorKind::Usage, format!("marker {text:?} does not begin with a file name"))
                .advise("give NAME or NAME:HEADER"));
        }
        Ok(Self { name: name.into(), header: header.into() })
    }

    fn is_in(&self, dir: &Dir) -> io::Result<bool> {
        let found = if self.header.is_empty() { dir.stat(&self.name).map(|_| true) } else { self.has_header(dir) };
        match found {
            Err(e) if is_not_there(&e) => Ok(false),
            other => other,
        }
    }

    /// Only a regular file counts: a symbolic link to a tag marks nothing.
    fn has_header(&self, dir: &Dir) -> io::Result<bool> {
        let file = dir.open_file(&self.name)?;
        if !stat_file(&file)?.is_file() {
            return Ok(false);
        }
        let mut start = vec![0; self.header.len()];
        let got = pread_exact_or_short(&file, &mut start, 0)?;
        Ok(got == start.len() && start == self.header)
    }
}

fn is_not_there(error: &io::Error) -> bool {
    let numbers = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ENXIO, libc::ENODEV, libc::ENAMETOOLONG];
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}

/// All patterns in the order of precedence; `None` if there are none, so that asking costs nothing.
fn compile(options: &ExcludeOptions) -> Result<Option<Gitignore>> {
    let mut builder = GitignoreBuilder::new("/");
    // In git an unclosed `[` stands for itself; here it would silently exclude nothing.
    builder.allow_unclosed_class(false);
    for file in &options.exclude_files {
        add_file(&mut builder, file)?;
    }
    for pattern in &options.exclude {
        add_argument(&mut builder, pattern, "--exclude")?;
    }
    // Cannot fail: it gives a Result for the history of its crate only.
    let _ = builder.case_insensitive(true);
    for pattern in &options.iexclude {
        add_argument(&mut builder, pattern, "--iexclude")?;
    }
    let built = builder.build().map_err(|e| Error::new(ErrorKind::Usage, format!("exclude patterns: {e}")))?;
    Ok((!built.is_empty()).then_some(built))
}

fn add_file(builder: &mut GitignoreBuilder, path: &Path) -> Result<()> {
    let bytes = fs::read(path).map_err(|e| Error::io(format!("reading pattern file {}", path.display()), e))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let place = format!("{}:{}", path.display(), index + 1);
        let line = as_text(line).ok_or_else(|| {
            let text = String::from_utf8_lossy(line);
            bad_pattern(&text, &place, "not UTF-8 within [ ]").advise("match bytes that are not UTF-8 with `?` or `*`")
        })?;
        if !line.starts_with('#') && !line.trim_end().is_empty() {
            add_line(builder, &line, &place)?;
        }
    }
    Ok(())
}

/// A line of a pattern file. Patterns are text and names are bytes: a byte that is not UTF-8 (of a name in Latin-1, say)
/// becomes a class that any byte above 0x7f matches, and no letter. None where it stands in a class itself.
fn as_text(line: &[u8]) -> Option<Cow<'_, str>> {
    if let Ok(text) = str::from_utf8(line) {
        return Some(Cow::Borrowed(text));
    }
    if line.starts_with(b"#") {
        return Some(Cow::Borrowed("#"));
    }
    if line.contains(&b'[') {
        return None;
    }
    let mut text = String::with_capacity(line.len() + 16);
    for part in line.utf8_chunks() {
        text.push_str(part.valid());
        part.invalid().iter().for_each(|_| text.push_str("[!\u{1}-\u{7f}]"));
    }
    Some(Cow::Owned(text))
}

fn add_argument(builder: &mut GitignoreBuilder, pattern: &str, place: &str) -> Result<()> {
    if pattern.trim_end().is_empty() {
        return Err(bad_pattern(pattern, place, "empty"));
    }
    if pattern.starts_with('#') {
        // A comment makes sense in files only.
        return add_line(builder, &format!("\\{pattern}"), place);
    }
    add_line(builder, pattern, place)
}

fn add_line(builder: &mut GitignoreBuilder, line: &str, place: &str) -> Result<()> {
    let text = line.trim_end();
    if matches!(text, "!" | "/" | "!/" | "\\") {
        return Err(bad_pattern(text, place, "matches nothing"));
    }
    match builder.add_line(None, line) {
        Ok(_) => Ok(()),
        Err(ignore::Error::Glob { err, .. }) => Err(bad_pattern(text, place, &err)),
        Err(e) => Err(bad_pattern(text, place, &e.to_string())),
    }
}

fn bad_pattern(pattern: &str, place: &str, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("exclude pattern {pattern:?} ({place}): {why}"))
}

/// A size as people write it: bytes, or a number with K, M, G, T or P (powers of 1024), with or without
/// `B` or `iB` behind, in either case.
///
/// # Errors
/// `Usage` for anything else, and for sizes of 2^64 bytes and more.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(ErrorKind::Usage, format!("{text:?} is not a size"))
            .advise("give bytes, or a number with K, M, G or T")
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
#[path = "exclude_tests.rs"]
mod tests;
