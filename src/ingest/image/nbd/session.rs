//! One conversation with an NBD server, over anything that reads and writes: handshake, then requests.
//!
//! A server is not trusted: each answer is held against the question, so nothing is written beside the
//! buffer it is for, no byte asked for stays unset, and no length makes memory. Several requests are under
//! way together; answers may come in any order and in parts.

use super::wire::{self, ChunkKind, Command, Info, Opt, OptionReply, StatusExtent};
use crate::catalog::points::printable;
use crate::ingest::image::bad;
use crate::ingest::image::disk::check_size;
use crate::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::io::{BufReader, Read, Write};

/// Bytes of one request to read; servers split larger ones anyway.
const REQUEST_BYTES: u32 = 512 * 1024;
/// Requests under way.
const DEPTH: usize = 16;
/// Bytes of the disk that one question for block status is about.
const STATUS_BYTES: u64 = 1 << 30;
/// Block size where a server names none.
const DEFAULT_BLOCK_BYTES: u32 = 512;
/// Largest smallest block that the protocol allows.
const MAX_BLOCK_BYTES: u32 = 64 * 1024;
/// Parts of one answer.
const MAX_PARTS: usize = 64 * 1024;
/// Answers to one option: exports or contexts that a server has.
const MAX_OPTION_REPLIES: usize = 10_000;
/// Exports or contexts that an error names.
const LISTED: usize = 20;
/// Runs of a map: memory is bounded whatever a server says.
pub const MAX_RUNS: usize = 2 << 20;

/// What the disk's holes and zeros are.
pub const ALLOCATION: &str = "base:allocation";
/// Front of the contexts that are dirty bitmaps of QEMU.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// A run of the disk with the same flags, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it begins.
    pub offset: u64,
    /// Its length, not 0.
    pub len: u64,
    /// What the context says of it.
    pub flags: u32,
}

/// An open export.
#[derive(Debug)]
pub struct Session<S> {
    stream: BufReader<S>,
    size: u64,
    structured: bool,
    min_block: u32,
    request_bytes: u32,
    contexts: Vec<Context>,
    offered_bitmaps: Vec<String>,
    cookie: u64,
    /// Requests under way, and answers that were not taken yet: one row of the disk.
    ahead: VecDeque<Request>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    /// Whether question and answer may be out of step.
    broken: bool,
}

/// A context that was asked for and is there. The server chooses its number.
#[derive(Debug)]
struct Context {
    id: u32,
    name: String,
}

/// A request to read that was sent, until its bytes were taken.
#[derive(Debug)]
struct Request {
    cookie: u64,
    offset: u64,
    bytes: Vec<u8>,
    /// Ranges that were answered, in the order of answers, as offsets in `bytes`.
    parts: Vec<(usize, usize)>,
    done: bool,
    /// What the server could not do.
    failed: Option<Error>,
}

impl<S: Read + Write> Session<S> {
    /// Opens an export and asks for contexts; those that the server does not have are simply not there.
    ///
    /// # Errors
    /// When the server is none, does not have the export, or says what makes no sense.
    pub fn open(stream: S, export: &[u8], contexts: &[&str]) -> Result<Self> {
        let mut session = Self {
            stream: BufReader::new(stream),
            size: 0,
            structured: false,
            min_block: DEFAULT_BLOCK_BYTES,
            request_bytes: REQUEST_BYTES,
            contexts: Vec::new(),
            offered_bitmaps: Vec::new(),
            cookie: 0,
            ahead: VecDeque::new(),
            spare: Vec::new(),
            broken: true,
        };
        let flags = wire::greeting(&mut session.stream)?;
        session.send(&flags)?;
        session.structured = session.ask(Opt::StructuredReply, &[], |_, _| Ok(()))?.is_ok();
        if session.structured && !contexts.is_empty() {
            session.set_contexts(export, contexts)?;
        }
        session.go(export)?;
        session.broken = false;
        Ok(session)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).and_then(|()| stream.flush()).map_err(super::lost)
    }

    /// Sends an option and gives its answers to `take`, up to the last; a refusal is the inner error.
    fn ask(
        &mut self,
        option: Opt,
        data: &[u8],
        mut take: impl FnMut(&mut Self, OptionReply) -> Result<()>,
    ) -> Result<std::result::Result<(), (u32, String)>> {
        self.send(&wire::option(option, data))?;
        for _ in 0..MAX_OPTION_REPLIES {
            match wire::option_reply(&mut self.stream, option)? {
                OptionReply::Ack => return Ok(Ok(())),
                OptionReply::Refused(number, message) => return Ok(Err((number, message))),
                reply => take(self, reply)?,
            }
        }
        Err(bad(format!("the NBD server has more than {MAX_OPTION_REPLIES} answers to one question")))
    }

    fn set_contexts(&mut self, export: &[u8], names: &[&str]) -> Result<()> {
        // Refused where there is no such export: opening it says so in better words.
        let _refused = self.ask(Opt::SetMetaContext, &context_query(export, names), |session, reply| {
            let OptionReply::Context(id, name) = reply else { return Ok(()) };
            let name = String::from_utf8(name).unwrap_or_default();
            let known = session.contexts.iter().any(|context| context.id == id || context.name == name);
            if known || !names.contains(&name.as_str()) {
                return Err(bad(format!(
                    "the NBD server gives the context '{name}', which it was not asked for, or twice"
                )));
            }
            session.contexts.push(Context { id, name });
            Ok(())
        })?;
        if names.iter().any(|name| name.starts_with(DIRTY_BITMAP) && !self.has_context(name)) {
            let _refused =
                self.ask(Opt::ListMetaContext, &context_query(export, &[DIRTY_BITMAP]), |session, reply| {
                    if let OptionReply::Context(_, name) = reply {
                        session
                            .offered_bitmaps
                            .push(printable(name.strip_prefix(DIRTY_BITMAP.as_bytes()).unwrap_or(&name)));
                    }
                    Ok(())
                })?;
        }
        Ok(())
    }

    /// Begins the transmission.
    fn go(&mut self, export: &[u8]) -> Result<()> {
        let mut size = None;
        let data = [&wire::text(export)[..], &1_u16.to_be_bytes(), &3_u16.to_be_bytes()].concat();
        let gone = self.ask(Opt::Go, &data, |session, reply| {
            match reply {
                OptionReply::Info(Info::Export(bytes, _flags)) => size = Some(check_size(bytes)?),
                OptionReply::Info(Info::BlockSize(min, max)) => session.set_block_size(min, max)?,
                _ => {}
            }
            Ok(())
        })?;
        if let Err((number, message)) = gone {
            return Err(self.no_export(export, number, &message));
        }
        self.size = size.ok_or_else(|| bad("the NBD server does not say how large the export is"))?;
        Ok(())
    }

    fn set_block_size(&mut self, min: u32, max: u32) -> Result<()> {
        if !min.is_power_of_two() || min > MAX_BLOCK_BYTES || max < min {
            return Err(bad(format!("the NBD server wants requests of {min} to {max} bytes")));
        }
        self.min_block = min;
        // A multiple of the smallest block, so that every request begins at one.
        self.request_bytes = REQUEST_BYTES.min(max - max % min);
        Ok(())
    }

    fn no_export(&mut self, export: &[u8], number: u32, message: &str) -> Error {
        let mut names = Vec::new();
        let listed = self.ask(Opt::List, &[], |_, reply| {
            if let OptionReply::Server(name) = reply {
                names.push(format!("'{}'", printable(&name)));
            }
            Ok(())
        });
        let _ended = self.send(&wire::option(Opt::Abort, &[]));
        let why = if message.is_empty() { wire::refusal_text(number) } else { message.to_owned() };
        let what = format!("the NBD server does not open the export '{}': {why}", printable(export));
        let error = Error::new(ErrorKind::NotFound, what);
        if listed.is_err() || names.is_empty() {
            return error;
        }
        let more = names.len().saturating_sub(LISTED);
        names.truncate(LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        error.advise(format!("it has these exports: {}{more}", names.join(", ")))
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether the server has a context that was asked for.
    #[must_use]
    pub fn has_context(&self, name: &str) -> bool {
        self.contexts.iter().any(|context| context.name == name)
    }

    /// The dirty bitmaps that the server has, when one that was asked for is not among them.
    #[must_use]
    pub fn offered_bitmaps(&self) -> &[String] {
        &self.offered_bitmaps
    }

    /// Whether nothing more can be asked.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Fills `out` with the disk's content from `offset`.
    ///
    /// # Errors
    /// Past the disk's end; when the server cannot read, in its words; when it goes away or talks nonsense,
    /// after which nothing more can be asked.
    pub fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_ahead(offset, out, 0)
    }

    /// As [`Session::read`], and asks for what follows up to `until` already, which a next read then finds under
    /// way: the server is never idle while the content before is worked on.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_ahead(&mut self, offset: u64, out: &mut [u8], until: u64) -> Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size);
        let Some(end) = end else { return Err(bad(format!("a read past the disk's end, at {offset}"))) };
        self.in_step(|session| {
            let (mut at, mut out) = (offset, out);
            while !out.is_empty() {
                session.ask_from(at, end.max(until))?;
                session.wait_for_front()?;
                // An answer that failed is told once; who reads there again asks again.
                if let Some(error) =
                    session.ahead.pop_front_if(|front| front.failed.is_some()).and_then(|front| front.failed)
                {
                    return Ok(Err(error));
                }
                let Some(front) = session.ahead.front() else { break };
                let from = usize::try_from(at - front.offset).unwrap_or(usize::MAX);
                let bytes = front.bytes.get(from..).unwrap_or_default();
                let (part, rest) = out.split_at_mut(bytes.len().min(out.len()));
                part.copy_from_slice(bytes.get(..part.len()).unwrap_or_default());
                at += part.len() as u64;
                out = rest;
            }
            Ok(Ok(()))
        })
    }

    /// Does something that leaves the session broken if it ends half way.
    fn in_step<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<Result<T>>) -> Result<T> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(bad("the conversation with the NBD server ended before"));
        }
        let answered = what(self)?;
        self.broken = false;
        answered
    }

    /// Makes the request that holds `at` the front of those under way, and sends as many more behind it as may be, up
    /// to `until`.
    fn ask_from(&mut self, at: u64, until: u64) -> Result<()> {
        while let Some(front) = self.ahead.front() {
            if (front.offset..front.end()).contains(&at) && front.failed.is_none() {
                break;
            }
            self.wait_for_front()?;
            self.spare.extend(self.ahead.pop_front().map(|front| front.bytes));
        }
        let block = u64::from(self.min_block);
        let until = until.checked_next_multiple_of(block).unwrap_or(until).min(self.size);
        let mut next = self.ahead.back().map_or(at - at % block, Request::end);
        let mut sent = Vec::new();
        while next < until && self.ahead.len() < DEPTH {
            let len = (until - next).min(u64::from(self.request_bytes)) as u32;
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.resize(len as usize, 0);
            let cookie = self.next_cookie();
            sent.extend(wire::request(Command::Read, cookie, next, len));
            self.ahead.push_back(Request { cookie, offset: next, bytes, parts: Vec::new(), done: false, failed: None });
            next += u64::from(len);
        }
        if sent.is_empty() { Ok(()) } else { self.send(&sent) }
    }

    const fn next_cookie(&mut self) -> u64 {
        let cookie = self.cookie;
        self.cookie = self.cookie.wrapping_add(1);
        cookie
    }

    /// Takes answers until the first request under way has its own.
    fn wait_for_front(&mut self) -> Result<()> {
        let mut parts = 0;
        while self.ahead.front().is_some_and(|front| !front.done) {
            parts = one_more(parts)?;
            let chunk = wire::chunk(&mut self.stream, self.structured)?;
            let asked = self.ahead.iter().position(|request| request.cookie == chunk.cookie && !request.done);
            // Its buffer is lent out of the row while it is filled.
            let request = asked.and_then(|at| self.ahead.get_mut(at)).map(std::mem::take);
            let mut request = request.ok_or_else(|| bad("the NBD server answers what it was not asked"))?;
            let failed = self.take_part(&mut request, chunk.kind)?;
            request.failed = request.failed.or(failed);
            if chunk.done {
                request.finish()?;
            }
            if let Some(place) = asked.and_then(|at| self.ahead.get_mut(at)) {
                *place = request;
            }
        }
        Ok(())
    }

    /// Takes all answers that are due, so that something else can be asked.
    fn wait_for_all(&mut self) -> Result<()> {
        for _ in 0..self.ahead.len() {
            self.wait_for_front()?;
            self.ahead.rotate_left(1);
        }
        Ok(())
    }

    /// Takes a part of an answer to a read. Gives the error if that is what it is.
    fn take_part(&mut self, request: &mut Request, kind: ChunkKind) -> Result<Option<Error>> {
        match kind {
            ChunkKind::None { simple: false } => {}
            ChunkKind::None { simple: true } if !self.structured => {
                let len = request.bytes.len();
                let out = request.part(request.offset, len)?;
                wire::fill(&mut self.stream, out)?;
            }
            ChunkKind::Data { offset, len } => {
                let out = request.part(offset, len as usize)?;
                wire::fill(&mut self.stream, out)?;
            }
            ChunkKind::Hole { offset, len } => request.part(offset, len as usize)?.fill(0),
            ChunkKind::Error { number, message, rest } => {
                let message = wire::message(&mut self.stream, message, rest)?;
                let (bytes, offset) = (request.bytes.len(), request.offset);
                return Ok(Some(server_error(&format!("read {bytes} bytes at {offset}"), number, &message)));
            }
            ChunkKind::Status { .. } | ChunkKind::None { simple: true } => {
                return Err(bad("the NBD server answers a read with something else"));
            }
        }
        Ok(None)
    }

    /// What the contexts say of the whole disk: for each of `names`, its runs in order. All of them must
    /// be there.
    ///
    /// # Errors
    /// As [`Session::read`], and when there are more than [`MAX_RUNS`].
    pub fn map(&mut self, names: &[&str], check: &dyn Fn() -> Result<()>) -> Result<Vec<Vec<Run>>> {
        let mut maps = vec![Vec::new(); names.len()];
        let mut at = 0;
        while at < self.size {
            check()?;
            let len = STATUS_BYTES.min(self.size - at) as u32;
            let answers = self.in_step(|session| session.block_status(names, at, len))?;
            // Each context may cover less than was asked for, and each its own part of it.
            let covered = |extents: &Vec<StatusExtent>| extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
            let known = answers.iter().map(covered).min().unwrap_or_default().min(u64::from(len));
            for (map, extents) in maps.iter_mut().zip(&answers) {
                add_runs(map, at, known, extents)?;
            }
            at += known;
        }
        Ok(maps)
    }

    /// What a context, which must be there, says of the disk from the block on that `offset` is in: as far as one answer
    /// goes, at least one byte. Of a server that keeps to its blocks that is behind `offset`.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn status(&mut self, name: &str, offset: u64) -> Result<Vec<Run>> {
        // Questions begin and end at blocks.
        let at = offset - offset % u64::from(self.min_block);
        let len = STATUS_BYTES.min(self.size.saturating_sub(at));
        let answers = self.in_step(|session| session.block_status(&[name], at, len as u32))?;
        let mut runs = Vec::new();
        add_runs(&mut runs, at, len, answers.first().map_or(&[], Vec::as_slice))?;
        Ok(runs)
    }

    /// One question; the answers in the order of `names`, none empty.
    fn block_status(&mut self, names: &[&str], offset: u64, len: u32) -> Result<Result<Vec<Vec<StatusExtent>>>> {
        self.wait_for_all()?;
        let cookie = self.next_cookie();
        self.send(&wire::request(Command::BlockStatus, cookie, offset, len))?;
        let mut answers: Vec<Vec<StatusExtent>> = vec![Vec::new(); names.len()];
        let (mut result, mut parts) = (Ok(()), 0);
        loop {
            parts = one_more(parts)?;
            let chunk = wire::chunk(&mut self.stream, self.structured)?;
            if chunk.cookie != cookie {
                return Err(bad("the NBD server answers what it was not asked"));
            }
            match chunk.kind {
                ChunkKind::Status { context, extents } => {
                    let extents = wire::extents(&mut self.stream, extents)?;
                    let context = self.contexts.iter().find(|known| known.id == context);
                    let context = context.ok_or_else(|| bad("the NBD server tells of a context that is not known"))?;
                    let wanted = names.iter().position(|name| *name == context.name).and_then(|at| answers.get_mut(at));
                    if let Some(answer) = wanted {
                        if !answer.is_empty() {
                            return Err(bad(format!(
                                "the NBD server answers twice for the context '{}'",
                                context.name
                            )));
                        }
                        *answer = extents;
                    }
                }
                ChunkKind::Error { number, message, rest } => {
                    let message = wire::message(&mut self.stream, message, rest)?;
                    result =
                        Err(server_error(&format!("say what it knows of {len} bytes at {offset}"), number, &message));
                }
                ChunkKind::None { simple: false } => {}
                _ => return Err(bad("the NBD server answers a question for block status with something else")),
            }
            if chunk.done {
                break;
            }
        }
        if result.is_ok() && answers.iter().any(Vec::is_empty) {
            return Err(bad("the NBD server does not answer for every context"));
        }
        Ok(result.map(|()| answers))
    }

    /// Says goodbye. That the server may be gone already does not matter any more.
    pub fn close(mut self) {
        if !self.broken {
            let _gone = self.send(&wire::request(Command::Disconnect, self.cookie, 0, 0));
        }
    }
}

impl Default for Request {
    /// What stands in the row while the buffer is lent.
    fn default() -> Self {
        Self { cookie: 0, offset: 0, bytes: Vec::new(), parts: Vec::new(), done: true, failed: None }
    }
}

impl Request {
    const fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// The part of the buffer that an answer is for, which must lie in it.
    fn part(&mut self, offset: u64, len: usize) -> Result<&mut [u8]> {
        let wrong = || bad(format!("the NBD server sends {len} bytes at {offset}, which were not asked for"));
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok()).ok_or_else(wrong)?;
        let end = start.checked_add(len).filter(|end| *end <= self.bytes.len() && len > 0).ok_or_else(wrong)?;
        let parts = self.parts.len();
        match self.parts.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ if parts == MAX_PARTS => return Err(bad("the NBD server sends an answer in too many parts")),
            _ => self.parts.push((start, end)),
        }
        self.bytes.get_mut(start..end).ok_or_else(wrong)
    }

    /// The answer is over: every byte must have come once, or an error for them.
    fn finish(&mut self) -> Result<()> {
        self.done = true;
        self.parts.sort_unstable();
        let mut at = 0;
        for (start, end) in &self.parts {
            if *start != at {
                break;
            }
            at = *end;
        }
        let whole = at == self.bytes.len() && self.parts.last().is_none_or(|last| last.1 == at);
        if whole || self.failed.is_some() {
            Ok(())
        } else {
            Err(bad("the NBD server's answer to a read has gaps or overlaps"))
        }
    }
}

/// Adds the first `known` bytes of `extents`, which begin at `at`; neighbours with equal flags become one run.
fn add_runs(map: &mut Vec<Run>, at: u64, known: u64, extents: &[StatusExtent]) -> Result<()> {
    let (mut offset, end) = (at, at + known);
    for extent in extents {
        let len = u64::from(extent.len).min(end - offset);
        if len == 0 {
            break;
        }
        let runs = map.len();
        match map.last_mut() {
            Some(last) if last.flags == extent.flags => last.len += len,
            _ if runs == MAX_RUNS => return Err(bad(format!("the NBD server's map has more than {MAX_RUNS} runs"))),
            _ => map.push(Run { offset, len, flags: extent.flags }),
        }
        offset += len;
    }
    Ok(())
}

/// Counts the parts of answers: a server could send empty ones for ever.
fn one_more(parts: usize) -> Result<usize> {
    if parts < DEPTH * MAX_PARTS { Ok(parts + 1) } else { Err(bad("the NBD server sends an answer in too many parts")) }
}

fn server_error(what: &str, number: u32, message: &str) -> Error {
    let error = wire::error_text(number);
    let words = if message.is_empty() { error } else { format!("{error} ({message})") };
    Error::new(ErrorKind::Io, format!("the NBD server could not {what}: {words}"))
}

/// The data of an option about contexts.
fn context_query(export: &[u8], names: &[&str]) -> Vec<u8> {
    let queries: Vec<u8> = names.iter().flat_map(|name| wire::text(name.as_bytes())).collect();
    [wire::text(export), (names.len() as u32).to_be_bytes().to_vec(), queries].concat()
}
