//! Cutting what is staged, so that the layout is again what a full read of the content would give.
//!
//! A cut depends on the bytes of its chunk and on two bytes behind it (`FastCDC` looks at bytes in pairs, and at
//! the byte at which it cuts), and on where the run ends: on which blocks are zero. So within a *zone*, a range
//! that holds the same bytes at the same place in its block as a layout that is known, that layout's chunks are
//! right once one of them begins at a cut, as long as they end two bytes before the zone does. Zones begin and end at
//! block borders, or where both files end. Around each staged range this walks from the last chunk that
//! is surely right, reads and cuts where no zone tells, takes chunks over where one does, and stops where the cuts
//! meet those of the old layout again. What is further away is neither read nor looked at.
//!
//! An extent below that cannot be read ends the run: what is visible of it is taken over as it is, and cutting goes on behind
//! it as behind a hole (see `damage`). Where the source is the state itself, it is read there instead.

use super::content::{Content, ContentId, Layout, What};
use super::damage::Damage;
use super::pipeline::Pipeline;
use super::rows::{Base, Rows};
use super::source::ReadSource;
use super::spool::Spool;
use super::store::Store;
use crate::ingest::chunker::{BLOCK_BYTES, Piece, Splitter};
use crate::{Error, ErrorKind, Result};
use repo_format::{ChunkId, Extent};
use std::ops::Range;
use std::sync::Arc;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Least bytes read at once where content is cut anew.
const READ_BYTES: usize = 64 * 1024;
/// How far behind a chunk its end depends on the bytes.
const LOOK_BEHIND: u64 = 2;

/// What cutting needs around it.
pub(super) struct Recut<'r, 's> {
    pub(super) store: &'s dyn Store,
    pub(super) root: Option<ChunkId>,
    pub(super) pipeline: &'r mut Pipeline<'s>,
    pub(super) spool: &'r Spool,
    pub(super) source: Option<&'r mut (dyn ReadSource + 's)>,
    /// The file's path in the source, where something must or may be read there.
    pub(super) path: Option<&'r [u8]>,
    /// Whether the source is known to be the state itself: what is damaged may be read there, too.
    pub(super) may_mend: bool,
    /// Called with the bytes read from the source.
    pub(super) on_read: &'r mut dyn FnMut(u64) -> Result<()>,
    /// Extents below that could not be read.
    pub(super) damage: &'r mut Vec<Damage>,
    /// New extents so far, and from how many on to pause.
    pub(super) extents: usize,
    pub(super) max_extents: usize,
}

/// What is known of the content around an offset.
enum Span {
    /// Zeros up to here.
    Hole(u64),
    /// Perhaps not.
    Bytes,
}

/// Bytes of the content around the place that is being cut.
struct Window {
    splitter: Splitter,
    /// The bytes from `splitter.at()` on are `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    /// Where what can be read ends: the file's size, or the start of the damage behind it.
    end: u64,
    damage: Option<Damage>,
}

impl<'s> Recut<'_, 's> {
    /// Cuts what is staged. The new extents come through the pipeline, under `id`. False if that were so many
    /// that the rest is still staged: what came must go to a tree first.
    pub(super) fn run(&mut self, id: ContentId, content: &mut Content) -> Result<bool> {
        let mut from = 0;
        while let Some(dirty) = content.staged.range(from..).next().map(|(start, _)| *start) {
            let start = self.last_sure_cut(content, dirty)?;
            let (mut taken, known) = (Vec::new(), self.damage.len());
            let (end, is_cut) = self.cut_from(id, content, start, dirty, &mut taken)?;
            // Staged pieces stay in sight until the end: their neighbourhood says what the next zones are.
            let cleared = if end >= content.size { u64::MAX } else { end };
            content.clear(start..cleared);
            content.rows.extend(taken);
            if !is_cut {
                let paused = content.piece_at(end).ok().map(|(start, _)| (end, start));
                let before = content.paused.filter(|(at, _)| paused.is_some_and(|(_, start)| start == *at));
                content.cut_out(0..end);
                let paused = before.map_or(paused, |(_, start)| Some((end, start)));
                self.mend_behind(content, end, known);
                content.paused = paused;
                content.layout_size = content.layout_size.max(end);
                return Ok(false);
            }
            if end >= content.size {
                break;
            }
            self.mend_behind(content, end, known);
            from = end;
        }
        content.staged.clear();
        content.has_unread = false;
        (content.shared, content.paused) = (None, None);
        content.layout_size = content.size;
        Ok(true)
    }

    /// Where cutting begins for a range that is staged from `dirty` on: the start of the first chunk that may end
    /// elsewhere by now.
    fn last_sure_cut(&self, content: &Content, dirty: u64) -> Result<u64> {
        if content.paused.is_some_and(|(at, _)| at == dirty) {
            return Ok(dirty);
        }
        let zone_end = dirty - dirty % BLOCK;
        let Some(last) = zone_end.checked_sub(LOOK_BEHIND) else { return Ok(0) };
        let row = self.own_rows(content, last)?.peek();
        Ok(row.filter(|(at, _)| *at < zone_end).map_or(zone_end, |(at, _)| at))
    }

    fn own_rows<'c>(&self, content: &'c Content, from: u64) -> Result<Rows<'c>>
    where
        's: 'c,
    {
        Rows::of_content(Base { nodes: self.store.nodes(), root: self.root }, content, from)
    }

    /// Cuts from `start`, for what is staged from `dirty` on, until the old layout is right again; returns where that
    /// is, or the size. False behind it: it ended early, in the middle of a staged piece, but not where that began.
    fn cut_from(
        &mut self,
        id: ContentId,
        content: &Content,
        start: u64,
        dirty: u64,
        taken: &mut Vec<(u64, Extent)>,
    ) -> Result<(u64, bool)> {
        let mut at = start;
        let mut window = Window::at(self.pipeline, at, content.size);
        while at < content.size {
            if self.extents + taken.len() >= self.max_extents && at > dirty && self.may_pause(content, at)? {
                return Ok((at, false));
            }
            if let Some(damage) = window.damage.filter(|damage| damage.at == at) {
                taken.push((at, damage.row));
                at += u64::from(damage.row.len);
                window = Window::at(self.pipeline, at, content.size);
                continue;
            }
            if let Some(end) = self.hole_at(content, at)? {
                at = end;
                window = Window::at(self.pipeline, at, content.size);
                continue;
            }
            match content.piece_at(at) {
                Err(_) if self.meets_old(content, at)? => {
                    self.extents += taken.len();
                    return Ok((at, true));
                }
                Ok((piece_start, piece)) => {
                    let end = self.take_over(content, at, piece_start..piece.end, &piece.what, taken)?;
                    if end > at {
                        at = end;
                        window = Window::at(self.pipeline, at, content.size);
                        continue;
                    }
                }
                Err(_) => {}
            }
            at = self.cut_one(id, content, &mut window)?;
        }
        Ok((at, true))
    }

    /// Whether the rest may stay staged: `at` is in a piece that also covers what is left of the extent that ends here.
    fn may_pause(&self, content: &Content, at: u64) -> Result<bool> {
        let Ok((_, piece)) = content.piece_at(at) else { return Ok(false) };
        let row = self.own_rows(content, at)?.peek().filter(|(start, _)| *start < at);
        Ok(row.is_none_or(|(start, row)| start + u64::from(row.len) <= piece.end))
    }

    /// The end of the whole zero blocks that are known to begin at `at`.
    fn hole_at(&mut self, content: &Content, at: u64) -> Result<Option<u64>> {
        if !at.is_multiple_of(BLOCK) {
            return Ok(None);
        }
        let Span::Hole(end) = self.span(content, at)? else { return Ok(None) };
        let end = if end >= content.size { content.size } else { end - end % BLOCK };
        Ok(Some(end).filter(|end| *end > at))
    }

    /// Whether at `at`, which is a cut, outside of what is staged, the old layout goes on as a new one would.
    fn meets_old(&self, content: &Content, at: u64) -> Result<bool> {
        let before = content.staged.range(..=at).next_back().map_or(0, |(_, piece)| piece.end);
        let next = content.staged.range(at..).next().map_or(u64::MAX, |(start, _)| *start);
        // What was read again of damage is staged next: see `mend_behind`.
        let mended = self.damage.iter().filter(|damage| damage.is_reread && damage.at >= at).map(|damage| damage.at);
        let next = mended.min().unwrap_or(u64::MAX).min(next);
        let end = next.min(content.size).min(content.layout_size);
        let zone = Zone::new(before..end, end == content.size && end == content.layout_size);
        let row = self.own_rows(content, at)?.peek();
        Ok(row.is_some_and(|(start, row)| start == at && zone.holds(at, &row)))
    }

    /// Stages what the source gave of damage behind `end`, where the old layout would stay: that is cut anew, too, as it is
    /// known by now. `known` pieces of damage were met before.
    fn mend_behind(&self, content: &mut Content, end: u64, known: usize) {
        for damage in self.damage.iter().skip(known).filter(|damage| damage.is_reread && damage.at >= end) {
            let upto = (damage.at + u64::from(damage.row.len)).min(content.size);
            content.stage_inside(damage.at..upto, What::Unread);
        }
    }

    /// Whether an extent is known to be damaged and the source has what it held.
    fn can_mend(&self, row: &Extent) -> bool {
        self.may_mend && self.damage.iter().rev().any(|known| known.is_reread && known.row.chunk == row.chunk)
    }

    /// Takes over the chunks of another layout that a clone brought, from `at` on, as far as they are right; returns
    /// the end of the last.
    fn take_over(
        &self,
        content: &Content,
        at: u64,
        piece: Range<u64>,
        what: &What,
        taken: &mut Vec<(u64, Extent)>,
    ) -> Result<u64> {
        let What::Layout(layout, from) = what else { return Ok(at) };
        if piece.start % BLOCK != from % BLOCK {
            return Ok(at);
        }
        let end = piece.end.min(content.size);
        let both_end = end == content.size && from + (end - piece.start) == layout.size;
        // Before a pause the piece went on in front.
        let start = content.paused.filter(|(at, _)| *at == piece.start).map_or(piece.start, |(_, start)| start);
        let zone = Zone::new(start..end, both_end);
        let mut rows = Rows::of_layout(self.store.nodes(), layout, from + (at - piece.start))?;
        let mut done = at;
        while let Some((source, row)) = rows.next()? {
            let here = source.checked_sub(*from).map(|by| piece.start + by);
            let is_full = self.extents + taken.len() >= self.max_extents && done > at;
            if is_full || here != Some(done) || !zone.holds(done, &row) || self.can_mend(&row) {
                break;
            }
            taken.push((done, row));
            done += u64::from(row.len);
        }
        Ok(done)
    }

    /// Reads on until one piece is cut; returns its end.
    fn cut_one(&mut self, id: ContentId, content: &Content, window: &mut Window) -> Result<u64> {
        loop {
            let at = window.splitter.at();
            let bytes = window.buffer.get(window.start..).unwrap_or_default();
            let until = at + bytes.len() as u64;
            match window.splitter.next(bytes, until >= window.end) {
                Piece::Hole(len) => window.start += len,
                Piece::Chunk(len) => {
                    self.extents += 1;
                    self.pipeline.chunk(id, at, bytes.get(..len).unwrap_or(bytes))?;
                    window.start += len;
                }
                Piece::More => {
                    if until >= window.end {
                        return Ok(window.end);
                    }
                    self.fill(content, window, until)?;
                    continue;
                }
            }
            return Ok(window.splitter.at());
        }
    }

    /// Reads from `at`, the window's end, on.
    fn fill(&mut self, content: &Content, window: &mut Window, at: u64) -> Result<()> {
        window.buffer.drain(..window.start);
        window.start = 0;
        let left = usize::try_from(window.end - at).unwrap_or(usize::MAX);
        let old = window.buffer.len();
        // As much as the next cut may depend on, and little more: what is unchanged is not to be read.
        let more = (self.pipeline.chunker().max_bytes() + BLOCK_BYTES).saturating_sub(old).max(READ_BYTES);
        window.buffer.resize(old + left.min(more), 0);
        if let Some(damage) = self.read(content, at, window.buffer.get_mut(old..).unwrap_or_default())? {
            window.buffer.truncate(old + usize::try_from(damage.at - at).unwrap_or(usize::MAX));
            (window.end, window.damage) = (damage.at, Some(damage));
            window.splitter.end_at(damage.at);
            self.damage.push(damage);
        }
        Ok(())
    }

    /// What is at `at`, below the size.
    fn span(&mut self, content: &Content, at: u64) -> Result<Span> {
        match content.piece_at(at) {
            Ok((start, piece)) => match &piece.what {
                What::Hole => Ok(Span::Hole(piece.end)),
                What::Spool(_) => Ok(Span::Bytes),
                What::Layout(layout, from) => {
                    let from = from + (at - start);
                    let rows = Rows::of_layout(self.store.nodes(), layout, from)?;
                    Ok(span_of(rows, from, at, piece.end))
                }
                What::Unread => self.unread_span(at, piece.end.min(content.size)),
            },
            Err(next) => {
                let end = next.unwrap_or(u64::MAX).min(content.layout_size);
                Ok(span_of(self.own_rows(content, at)?, at, at, end))
            }
        }
    }

    fn unread_span(&mut self, at: u64, end: u64) -> Result<Span> {
        let (source, path) = self.unread()?;
        Ok(match source.next_data(path, at..end)? {
            None => Span::Hole(end),
            Some(data) if data.start > at => Span::Hole(data.start.min(end)),
            Some(_) => Span::Bytes,
        })
    }

    fn unread(&mut self) -> Result<(&mut (dyn ReadSource + 's), &[u8])> {
        match (&mut self.source, self.path) {
            (Some(source), Some(path)) => Ok((&mut **source, path)),
            _ => Err(Error::new(ErrorKind::Usage, "the stream says what changed, but not what it is by now")
                .advise("name the place where the content can be read")),
        }
    }

    /// Fills `out` with the content from `at` on, which is below the size to its end. Returns what of it could not be read:
    /// then `out` is filled up to there.
    fn read(&mut self, content: &Content, at: u64, out: &mut [u8]) -> Result<Option<Damage>> {
        let mut done = 0;
        while done < out.len() {
            let at = at + done as u64;
            let (what, start, end) = match content.piece_at(at) {
                Ok((start, piece)) => (Some(&piece.what), start, piece.end),
                Err(next) => (None, at, next.unwrap_or(u64::MAX)),
            };
            let end = end.min(content.size);
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(out.len() - done);
            let part = out.get_mut(done..done + len).unwrap_or_default();
            let damage = match what {
                None => self.read_rows(self.own_rows(content, at)?, at, part)?,
                Some(What::Hole) => {
                    part.fill(0);
                    None
                }
                Some(What::Spool(spool)) => {
                    self.spool.read(spool + (at - start), part)?;
                    None
                }
                Some(What::Layout(layout, from)) => {
                    let layout: &Arc<Layout> = layout;
                    let from = from + (at - start);
                    self.read_rows(Rows::of_layout(self.store.nodes(), layout, from)?, from, part)?
                        .map(|(offset, row)| (offset - from + at, row))
                }
                Some(What::Unread) => {
                    self.read_source(at, part)?;
                    None
                }
            };
            let Some((offset, row)) = damage else {
                done += len;
                continue;
            };
            // Of a row that goes on behind the piece, what is visible.
            let seen = (end - offset).min(u64::from(row.len)) as u32;
            let damage = Damage { at: offset, row: Extent { len: seen, ..row }, is_reread: false };
            done += usize::try_from(offset - at).unwrap_or(usize::MAX);
            match self.reread(&damage, out.get_mut(done..).unwrap_or_default())? {
                Some(more) => done += more,
                None => return Ok(Some(damage)),
            }
        }
        Ok(None)
    }

    /// Reads what is damaged from the source, as much of it as `out` takes; None where the source is not the state itself,
    /// or does not have it either.
    fn reread(&mut self, damage: &Damage, out: &mut [u8]) -> Result<Option<usize>> {
        let len = out.len().min(damage.row.len as usize);
        let (true, Some(_), Some(out)) = (self.may_mend, self.path, out.get_mut(..len)) else { return Ok(None) };
        match self.read_source(damage.at, out) {
            Ok(()) => {
                let row = Extent { len: len as u32, ..damage.row };
                self.damage.push(Damage { row, is_reread: true, ..*damage });
                Ok(Some(len))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(_) => Ok(None),
        }
    }

    fn read_source(&mut self, at: u64, out: &mut [u8]) -> Result<()> {
        let (source, path) = self.unread()?;
        let got = source.read_at(path, at, out)?;
        if got < out.len() {
            let path = crate::catalog::points::printable(path);
            let what =
                format!("{path} ends at byte {} in the source, where the stream says it goes on", at + got as u64);
            return Err(Error::new(ErrorKind::BadInput, what).advise("name the snapshot that the stream was made of"));
        }
        (self.on_read)(out.len() as u64)
    }

    /// Fills `out` with what extents hold from `from` on. Returns the first that cannot be read, from `from` on if it begins
    /// before; what is in front of it is filled then.
    fn read_rows(&mut self, mut rows: Rows<'_>, from: u64, out: &mut [u8]) -> Result<Option<(u64, Extent)>> {
        out.fill(0);
        let end = from + out.len() as u64;
        while let Some((start, row)) = rows.next()?.filter(|(start, _)| *start < end) {
            let (first, last) = (start.max(from), (start + u64::from(row.len)).min(end));
            let skip = u64::from(row.skip) + (first - start);
            let place = |from: u64, to: u64| Some(usize::try_from(from).ok()?..usize::try_from(to).ok()?);
            let (bytes, target) = (place(skip, skip + (last - first)), place(first - from, last - from));
            let mut copied = false;
            let read = self.chunk(&row.chunk, &mut |chunk| {
                let bytes = bytes.clone().and_then(|range| chunk.get(range));
                if let (Some(bytes), Some(target)) = (bytes, target.clone().and_then(|range| out.get_mut(range))) {
                    target.copy_from_slice(bytes);
                    copied = true;
                }
            });
            match read {
                Err(error) if !error.is_loss() => return Err(error),
                // Also a chunk that is shorter than its extent.
                _ if !copied => {
                    let by = (first - start) as u32;
                    return Ok(Some((first, Extent { skip: row.skip + by, len: row.len - by, ..row })));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn chunk(&mut self, id: &ChunkId, with: &mut dyn FnMut(&[u8])) -> Result<()> {
        match self.store.chunk(id, with) {
            // It may be one of this run that no reader can find yet.
            Err(_) if self.pipeline.is_unsettled() => {
                self.pipeline.settle()?;
                self.store.chunk(id, with)
            }
            result => result,
        }
    }
}

/// What extents say about `at` (`from` in the layout they belong to), of a range that ends at `end`.
fn span_of(mut rows: Rows<'_>, from: u64, at: u64, end: u64) -> Span {
    match rows.peek() {
        Some((start, _)) if start > from => Span::Hole((at + (start - from)).min(end)),
        Some(_) => Span::Bytes,
        None => Span::Hole(end),
    }
}

/// A range in which a layout is right: see the head of this file.
struct Zone {
    start: u64,
    end: u64,
    /// Both files end here.
    both_end: bool,
}

impl Zone {
    fn new(range: Range<u64>, both_end: bool) -> Self {
        let start = range.start.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        let end = if both_end { range.end } else { range.end - range.end % BLOCK };
        Self { start, end, both_end }
    }

    /// Whether a chunk that begins at the cut `at` is right.
    fn holds(&self, at: u64, row: &Extent) -> bool {
        let end = at + u64::from(row.len);
        // An extent that skips is not a whole chunk: somebody else's layout.
        row.skip == 0 && at >= self.start && (end + LOOK_BEHIND <= self.end || (self.both_end && end <= self.end))
    }
}

impl Window {
    fn at(pipeline: &Pipeline<'_>, at: u64, size: u64) -> Self {
        let splitter = Splitter::resume(pipeline.chunker(), at, size);
        Self { splitter, buffer: Vec::new(), start: 0, end: size, damage: None }
    }
}
