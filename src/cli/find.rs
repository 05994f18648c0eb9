//! `relict find`: names in restore points, by pattern, type, size and time.

use super::chains::{Chain, chains, readable};
use super::context::Context;
use super::exit::Outcome;
use super::out::Out;
use super::text::{count, escape, json_text, json_time, parse_size, stands_twice, table_time};
use super::versions::kind_word;
use super::{FilterArgs, POINTS};
use crate::catalog::points::{Filter, short_id, time_limit, time_name};
use crate::catalog::tree::Range;
use crate::error::{Error, ErrorKind, Result};
use crate::restore::lookup::{InoSet, TreeReader};
use crate::store::Repository;
use clap::Args;
use globset::{GlobBuilder, GlobMatcher};
use repo_format::{Dirent, FileKind, Inode, PointRecord, ROOT_INO, Time};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CACHE_BYTES: usize = 64 << 20;

/// Find files in restore points by name
///
/// Looks in the newest restore point of each source, or in those that are named. With several, one line says in
/// which of them a file is, as long as its size and time stay the same.
#[derive(Debug, Args)]
#[command(after_help = POINTS)]
pub struct FindArgs {
    /// A name such as '*.conf', or with a slash a whole path such as '/etc/**/*.conf'
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// In this restore point; may be given more than once
    #[arg(long, value_name = "POINT", conflicts_with = "all", allow_hyphen_values = true)]
    point: Vec<String>,
    /// In all restore points
    #[arg(long)]
    all: bool,
    /// Ignore case
    #[arg(short, long)]
    ignore_case: bool,
    /// Only what was modified at this time or after it: 2026-11-21, -7d, yesterday
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    newer: Option<String>,
    /// Only files of at least (+1M), at most (-1M) or exactly (1M) this size
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    size: Option<String>,
    /// Only this type: f file, d directory, l symbolic link, p FIFO, s socket, c or b device
    #[arg(long = "type", value_name = "LETTER")]
    kind: Option<char>,
    #[command(flatten)]
    filter: FilterArgs,
}

/// What is looked for.
struct Query {
    glob: GlobMatcher,
    whole_path: bool,
    newer: Option<i64>,
    size: Option<(std::cmp::Ordering, u64)>,
    kind: Option<FileKind>,
}

/// A match: one source's path with one state.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    path: Vec<u8>,
    kind: FileKind,
    mtime: (i64, u32),
    size: u64,
}

type Matches = BTreeMap<Found, Vec<usize>>;

/// Runs the command.
///
/// # Errors
/// When a pattern or option has no meaning, a restore point is not there, or the repository cannot be read.
pub fn run(context: &Context, args: &FindArgs) -> Result<Outcome> {
    let query = Query::new(args)?;
    let repo = context.repository(CACHE_BYTES)?;
    let (mut out, mut total, mut damage) = (Out::new(), 0_u64, None);
    for points in chosen(&repo, args)? {
        let matches = search(context, &repo, &points, &query, &mut damage)?;
        total += matches.len() as u64;
        for (found, at) in &matches {
            show(&mut out, context, &points, found, at)?;
        }
    }
    if context.chatty() && total == 0 {
        out.line("nothing found")?;
    }
    out.finish()?;
    damage.map_or(Ok(Outcome::Complete), Err)
}

/// The points to look in, by source.
fn chosen(repo: &Repository, args: &FindArgs) -> Result<Vec<Chain>> {
    let filter = Filter::from(&args.filter);
    if args.point.is_empty() {
        let newest = |chain: Chain| chain.last().cloned().into_iter().collect();
        let all = chains(repo, &filter)?;
        return Ok(if args.all { all } else { all.into_iter().map(newest).collect() });
    }
    let (points, _) = readable(repo)?;
    let mut out: BTreeMap<(Vec<u8>, Vec<u8>), Chain> = BTreeMap::new();
    for expression in &args.point {
        let point = points.resolve(expression, &filter)?;
        out.entry((point.host.clone(), point.source.clone())).or_default().push(Arc::new(point.clone()));
    }
    for points in out.values_mut() {
        points.sort_by_key(|point| (point.time, point.id));
        points.dedup_by_key(|point| point.id);
    }
    Ok(out.into_values().collect())
}

/// What cannot be looked into because it is damaged is in `damage`, the first of it.
fn search(
    context: &Context,
    repo: &Repository,
    points: &[Arc<PointRecord>],
    query: &Query,
    damage: &mut Option<Error>,
) -> Result<Matches> {
    let mut out = Matches::new();
    let mut before: Option<&Arc<PointRecord>> = None;
    for (index, point) in points.iter().enumerate() {
        if before.is_some_and(|before| before.root == point.root) {
            // The same tree: the same matches.
            out.values_mut().filter(|at| at.last() == Some(&(index - 1))).for_each(|at| at.push(index));
        } else {
            let mut walk = Walk { tree: TreeReader::new(repo, point.root), query, damage };
            walk.all(context, point, &mut |found| out.entry(found).or_default().push(index))?;
        }
        before = Some(point);
    }
    Ok(out)
}

/// One point that is searched.
struct Walk<'a> {
    tree: TreeReader<'a>,
    query: &'a Query,
    damage: &'a mut Option<Error>,
}

impl Walk<'_> {
    /// Every match. A directory that is damaged does not keep the others from being searched.
    fn all(&mut self, context: &Context, point: &PointRecord, emit: &mut dyn FnMut(Found)) -> Result<()> {
        let mut cursor = self.tree.cursor();
        let mut seen = InoSet::default();
        let mut pending = vec![(Vec::new(), ROOT_INO)];
        while let Some((above, dir)) = pending.pop() {
            if context.stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Interrupted, "the search was interrupted").advise("run it again"));
            }
            // A damaged tree may name a directory inside of itself.
            if !seen.insert(dir) {
                self.damage.get_or_insert_with(|| stands_twice(&above));
                continue;
            }
            match self.directory(&mut cursor, &above, dir, &mut pending, emit) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let shown = escape(if above.is_empty() { b"/" } else { &above });
                    let when = time_name(point.time);
                    let what = format!("not everything below {shown} in {when} ({}) was searched", short_id(point));
                    self.damage.get_or_insert_with(|| error.context(what));
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn directory(
        &self,
        cursor: &mut Range<'_>,
        above: &[u8],
        dir: u64,
        pending: &mut Vec<(Vec<u8>, u64)>,
        emit: &mut dyn FnMut(Found),
    ) -> Result<()> {
        for name in self.tree.names(dir) {
            let name = name?;
            let path = [above, b"/", &*name.name].concat();
            if self.query.names(&path, &name.name, name.entry) {
                let inode = self.tree.head(cursor, name.entry.ino)?.inode;
                if self.query.admits(&inode) {
                    let size = if inode.kind() == FileKind::File { inode.size } else { 0 };
                    let mtime = (inode.mtime.sec, inode.mtime.nsec);
                    emit(Found { path: path.clone(), kind: inode.kind(), mtime, size });
                }
            }
            if name.entry.kind == FileKind::Dir {
                pending.push((path, name.entry.ino));
            }
        }
        Ok(())
    }
}

fn show(out: &mut Out, context: &Context, points: &[Arc<PointRecord>], found: &Found, at: &[usize]) -> Result<()> {
    let point = |index: Option<&usize>| index.and_then(|index| points.get(*index));
    let (Some(first), Some(last)) = (point(at.first()), point(at.last())) else { return Ok(()) };
    let mtime = Time { sec: found.mtime.0, nsec: found.mtime.1 };
    if context.json {
        return out.json(&serde_json::json!({
            "message_type": "match",
            "path": json_text(&found.path),
            "type": kind_word(found.kind),
            "size": found.size,
            "mtime": json_time(mtime),
            "host": json_text(&first.host),
            "source": json_text(&first.source),
            "first_point": first.id.to_string(),
            "first_time": json_time(first.time),
            "last_point": last.id.to_string(),
            "last_time": json_time(last.time),
            "points": at.len(),
        }));
    }
    let when = match at.len() {
        1 => format!("{} {}", short_id(first), time_name(first.time)),
        many => format!("{} to {}, {many} points", time_name(first.time), time_name(last.time)),
    };
    let slash = if found.kind == FileKind::Dir { "/" } else { "" };
    out.line(&format!("{:>14} {} {}{slash}  ({when})", count(found.size), table_time(mtime), escape(&found.path)))
}

impl Query {
    fn new(args: &FindArgs) -> Result<Self> {
        let usage = |what: String, advice: &str| Error::new(ErrorKind::Usage, what).advise(advice);
        let shown = |text: &str| escape(text.as_bytes());
        let glob = GlobBuilder::new(&args.pattern).literal_separator(true).case_insensitive(args.ignore_case).build();
        let glob = glob.map_err(|e| {
            usage(
                format!("'{}' is not a pattern: {}", shown(&args.pattern), e.kind()),
                "write *, ?, [a-z], {one,other} or **/; a \\ takes their meaning away",
            )
        })?;
        let newer = args.newer.as_deref().map(|text| {
            since(text).ok_or_else(|| {
                usage(
                    format!("--newer: '{}' is not a time", shown(text)),
                    "write 2026-11-21, 2026-11-21T10-00, yesterday or -7d",
                )
            })
        });
        let letter = |letter: char| {
            let kinds = [
                FileKind::File,
                FileKind::Dir,
                FileKind::Symlink,
                FileKind::Fifo,
                FileKind::Socket,
                FileKind::Char,
                FileKind::Block,
            ];
            let found = "fdlpscb".chars().zip(kinds).find(|(known, _)| *known == letter);
            found.map(|(_, kind)| kind).ok_or_else(|| {
                usage(format!("--type: '{}' is not a type", shown(&letter.to_string())), "write f, d, l, p, s, c or b")
            })
        };
        Ok(Self {
            glob: glob.compile_matcher(),
            whole_path: args.pattern.contains('/'),
            newer: newer.transpose()?,
            size: args.size.as_deref().map(size_bound).transpose().map_err(|e| e.context("--size"))?,
            kind: args.kind.map(letter).transpose()?,
        })
    }

    fn names(&self, path: &[u8], name: &[u8], entry: Dirent) -> bool {
        let text = if self.whole_path { path } else { name };
        self.kind.is_none_or(|kind| kind == entry.kind) && self.glob.is_match(Path::new(OsStr::from_bytes(text)))
    }

    fn admits(&self, inode: &Inode) -> bool {
        let size = |(order, bound): (std::cmp::Ordering, u64)| {
            let found = inode.size.cmp(&bound);
            inode.kind() == FileKind::File && (found == order || found.is_eq())
        };
        self.newer.is_none_or(|newer| inode.mtime.sec >= newer) && self.size.is_none_or(size)
    }
}

/// The first second of a time: of a period its begin, of a span the time so long ago.
fn since(text: &str) -> Option<i64> {
    let now =
        Time { sec: std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs().cast_signed(), nsec: 0 };
    let end = time_limit(text, now)?;
    // Behind a whole period stands the second after it.
    let length = match text {
        "today" | "yesterday" => 86_400,
        _ if text.starts_with('-') || text == "now" => 1,
        _ => match text.len() {
            7 => return time_limit(&format!("{text}-01"), now).map(|end| end - 86_400),
            10 => 86_400,
            13 => 3600,
            16 => 60,
            _ => 1,
        },
    };
    Some(end - length)
}

fn size_bound(text: &str) -> Result<(std::cmp::Ordering, u64)> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let (order, number) = match text.split_at_checked(1) {
        Some(("+", rest)) => (Greater, rest),
        Some(("-", rest)) => (Less, rest),
        _ => (Equal, text),
    };
    Ok((order, parse_size(number)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering::{Equal, Greater, Less};

    #[test]
    fn times_begin_where_their_period_begins() {
        const DAY: i64 = 1_795_219_200;
        for (text, sec) in [
            ("2026-11-21", DAY),
            ("2026-11", DAY - 20 * 86_400),
            ("2026-11-21T10", DAY + 36_000),
            ("2026-11-21T10-30", DAY + 37_800),
            ("2026-11-21T10-30-05Z", DAY + 37_805),
        ] {
            assert_eq!(since(text), Some(sec), "{text}");
        }
        let ago = since("now").unwrap() - since("-7d").unwrap();
        assert!((7 * 86_400..7 * 86_400 + 2).contains(&ago) && since("today").unwrap() % 86_400 == 0);
        assert_eq!(since("soon"), None);
    }

    #[test]
    fn sizes_have_a_side() {
        assert_eq!(size_bound("+1M").unwrap(), (Greater, 1 << 20));
        assert_eq!(size_bound("-2K").unwrap(), (Less, 2048));
        assert_eq!(size_bound("7").unwrap(), (Equal, 7));
        assert!(size_bound("").is_err() && size_bound("+").is_err() && size_bound("++1").is_err());
    }
}
