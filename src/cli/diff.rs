//! `relict diff`: what differs between two restore points.

use super::chains::readable;
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::{counted, escape, json_text, size, stands_twice};
use super::versions::kind_word;
use super::{FilterArgs, POINTS};
use crate::catalog::history::{Comparison, Difference, Row, paths};
use crate::catalog::points::{Filter, short_id, time_name};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Repository;
use clap::Args;
use repo_format::{ChunkId, Dirent, FileKind, PointRecord, ROOT_INO, Time};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

const CACHE_BYTES: usize = 64 << 20;
/// Levels of directories; a damaged tree that contains itself ends here.
const MOST_LEVELS: usize = 1 << 16;

/// Show what differs between two restore points
#[derive(Debug, Args)]
#[command(after_help = format!("{POINTS}\nOLD is looked for in the source of NEW, unless it is an id.\n\n{SIGNS}"))]
pub struct DiffArgs {
    /// The older restore point
    #[arg(value_name = "OLD", allow_hyphen_values = true)]
    old: String,
    /// The newer restore point
    #[arg(value_name = "NEW", allow_hyphen_values = true)]
    new: String,
    /// Only count
    #[arg(long)]
    stat: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

const SIGNS: &str = "\
  + added    - removed    M content differs    U only owner, mode, time or attributes differ
A file that was moved is removed and added. Times of directories are not compared.";

/// Files, directories and bytes of one sign.
#[derive(Default, Clone, Copy)]
struct Tally {
    files: u64,
    dirs: u64,
    bytes: u64,
}

#[derive(Default)]
struct Tallies {
    added: Tally,
    removed: Tally,
    content: Tally,
    metadata: Tally,
}

struct Differ<'a> {
    context: &'a Context,
    repo: &'a Repository,
    old: &'a PointRecord,
    new: &'a PointRecord,
    stat: bool,
    out: Out,
    tallies: Tallies,
    /// Directories that were looked at, by their numbers in the old and new tree, 0 where only one has it.
    seen: HashSet<(u64, u64)>,
    /// The first directory that stands in more than one place.
    twice: Option<Vec<u8>>,
}

/// What is still to be looked at, last one first.
enum Todo {
    /// A directory that is in both.
    Both(Vec<u8>, u64, u64, usize),
    /// A name that is in one of the trees, with all below it.
    Whole(Vec<u8>, Dirent, Sign, usize),
    /// A name that differs itself.
    Changed(Vec<u8>, Dirent, Sign),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Added,
    Removed,
    Content,
    Metadata,
}

/// Runs the command.
///
/// # Errors
/// When a restore point is not there, or the repository cannot be read.
pub fn run(context: &Context, args: &DiffArgs) -> Result<Outcome> {
    let repo = context.repository(CACHE_BYTES)?;
    let (points, _) = readable(&repo)?;
    let (old, new) = points.resolve_pair(&args.old, &args.new, &Filter::from(&args.filter), now())?;
    let mut out = Out::new();
    if context.chatty() {
        out.line(&format!(
            "from {} ({}) to {} ({})",
            time_name(old.time),
            short_id(old),
            time_name(new.time),
            short_id(new)
        ))?;
    }
    let (tallies, seen) = (Tallies::default(), HashSet::new());
    let mut differ = Differ { context, repo: &repo, old, new, stat: args.stat, out, tallies, seen, twice: None };
    differ.run()?;
    differ.summary()?;
    differ.out.finish()?;
    differ.twice.map_or(Ok(Outcome::Complete), |path| Err(stands_twice(&path)))
}

impl Differ<'_> {
    fn run(&mut self) -> Result<()> {
        let comparison = Comparison::new(self.repo, self.old.root, self.new.root)?;
        let mut todo = vec![Todo::Both(Vec::new(), ROOT_INO, ROOT_INO, 0)];
        while let Some(next) = todo.pop() {
            if self.context.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the comparison was interrupted").advise("run it again"));
            }
            let begun = todo.len();
            match next {
                Todo::Both(path, old, new, level) => {
                    if !self.first_time(&path, (old, new)) {
                        continue;
                    }
                    for row in comparison.rows(self.repo, old, new)? {
                        push_row(&mut todo, &path, &row, level)?;
                    }
                }
                Todo::Whole(path, entry, sign, level) => self.whole(&mut todo, path, entry, sign, level)?,
                Todo::Changed(path, entry, sign) => self.say(&path, entry, sign)?,
            }
            // What was pushed is taken from the end: turned around, it comes in order.
            todo.get_mut(begun..).unwrap_or_default().reverse();
        }
        Ok(())
    }

    fn whole(&mut self, todo: &mut Vec<Todo>, path: Vec<u8>, entry: Dirent, sign: Sign, level: usize) -> Result<()> {
        self.say(&path, entry, sign)?;
        let pair = if sign == Sign::Removed { (entry.ino, 0) } else { (0, entry.ino) };
        if entry.kind == FileKind::Dir && self.first_time(&path, pair) {
            for named in paths::names(self.repo, self.root(sign), entry.ino) {
                let (name, entry) = named?;
                todo.push(Todo::Whole(below(&path, &name), entry, sign, deeper(level)?));
            }
        }
        Ok(())
    }

    /// Whether a directory was not looked at before; a damaged tree can name one in many places, also inside of itself.
    fn first_time(&mut self, path: &[u8], pair: (u64, u64)) -> bool {
        let first = self.seen.insert(pair);
        if !first && self.twice.is_none() {
            self.twice = Some(path.to_vec());
        }
        first
    }

    fn root(&self, sign: Sign) -> &ChunkId {
        if sign == Sign::Removed { &self.old.root } else { &self.new.root }
    }

    fn say(&mut self, path: &[u8], entry: Dirent, sign: Sign) -> Result<()> {
        let bytes = match entry.kind {
            FileKind::File => paths::inode(self.repo, self.root(sign), entry.ino)?.size,
            _ => 0,
        };
        let tally = match sign {
            Sign::Added => &mut self.tallies.added,
            Sign::Removed => &mut self.tallies.removed,
            Sign::Content => &mut self.tallies.content,
            Sign::Metadata => &mut self.tallies.metadata,
        };
        *(if entry.kind == FileKind::Dir { &mut tally.dirs } else { &mut tally.files }) += 1;
        // A damaged tree can have sizes beyond all sums.
        tally.bytes = tally.bytes.saturating_add(bytes);
        if self.stat {
            return Ok(());
        }
        if self.context.json {
            return self.out.json(&serde_json::json!({
                "message_type": "change", "path": json_text(path), "change": word(sign), "type": kind_word(entry.kind), "size": bytes,
            }));
        }
        let slash = if entry.kind == FileKind::Dir { "/" } else { "" };
        self.out.line(&format!("{} {}{slash}", letter(sign), escape(path)))
    }

    fn summary(&mut self) -> Result<()> {
        let t = &self.tallies;
        let rows = [
            ("added", t.added),
            ("removed", t.removed),
            ("changed", t.content),
            ("only attributes changed", t.metadata),
        ];
        if self.context.json {
            let tally = |t: Tally| serde_json::json!({ "files": t.files, "dirs": t.dirs, "bytes": t.bytes });
            return self.out.json(&serde_json::json!({
                "message_type": "summary",
                "old": self.old.id.to_string(),
                "new": self.new.id.to_string(),
                "added": tally(t.added),
                "removed": tally(t.removed),
                "content": tally(t.content),
                "metadata": tally(t.metadata),
            }));
        }
        if self.context.quiet && !self.stat {
            return Ok(());
        }
        let mut none = true;
        for (what, tally) in rows.into_iter().filter(|(_, t)| t.files + t.dirs > 0) {
            none = false;
            let dirs = if tally.dirs > 0 {
                format!(", {}", counted(tally.dirs, "directory").replace("directorys", "directories"))
            } else {
                String::new()
            };
            self.out.line(&format!("{what}: {}{dirs}, {}", counted(tally.files, "file"), size(tally.bytes)))?;
        }
        if none { self.out.line("no differences") } else { Ok(()) }
    }
}

fn push_row(todo: &mut Vec<Todo>, path: &[u8], row: &Row, level: usize) -> Result<()> {
    let path = below(path, &row.name);
    if let (Difference::Removed | Difference::Replaced, Some(old)) = (row.difference, row.old) {
        todo.push(Todo::Whole(path.clone(), old, Sign::Removed, level));
    }
    let Some(new) = row.new else { return Ok(()) };
    match row.difference {
        Difference::Added | Difference::Replaced => todo.push(Todo::Whole(path.clone(), new, Sign::Added, level)),
        Difference::Content => todo.push(Todo::Changed(path.clone(), new, Sign::Content)),
        Difference::Metadata => todo.push(Todo::Changed(path.clone(), new, Sign::Metadata)),
        Difference::Removed | Difference::Below => {}
    }
    if let (true, Some(old)) = (row.goes_down(), row.old) {
        todo.push(Todo::Both(path, old.ino, new.ino, deeper(level)?));
    }
    Ok(())
}

fn deeper(level: usize) -> Result<usize> {
    if level < MOST_LEVELS {
        Ok(level + 1)
    } else {
        Err(Error::damaged("a directory of the restore point contains itself"))
    }
}

fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

const fn letter(sign: Sign) -> char {
    match sign {
        Sign::Added => '+',
        Sign::Removed => '-',
        Sign::Content => 'M',
        Sign::Metadata => 'U',
    }
}

const fn word(sign: Sign) -> &'static str {
    match sign {
        Sign::Added => "added",
        Sign::Removed => "removed",
        Sign::Content => "content",
        Sign::Metadata => "metadata",
    }
}

fn now() -> Time {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time { sec: since.as_secs().cast_signed(), nsec: since.subsec_nanos() }
}
