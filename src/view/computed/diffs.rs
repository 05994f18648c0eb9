//! `diff/<A>..<B>/`: what differs between two restore points, as three trees.
//!
//! A directory that is in both points is computed. What is below an added or removed directory is added or removed
//! with it, so it is shown as it is in its restore point, from a slot of its own.

use super::{Entry, Listing, Node, Pair, View, clock, join};
use crate::catalog::history::{Comparison, Difference, Row, Side, paths};
use crate::catalog::points::{Filter, Points};
use crate::store::get_or_load;
use crate::view::inode::Ino;
use crate::view::layout::Layout;
use crate::{ErrorKind, Result};
use repo_format::PointRecord;
use std::sync::Arc;

impl View {
    /// `<A>..<B>`; None when these are not two expressions for points that are there.
    pub(super) fn pair(&self, layout: &Layout, name: Option<&str>) -> Result<Option<Node>> {
        let Some((name, (old, new))) = name.and_then(|name| Some((name, name.split_once("..")?))) else {
            return Ok(None);
        };
        let records = layout.sources().flat_map(|source| source.points.iter().map(|point| (**point).clone())).collect();
        let points = Points::new(records);
        match points.resolve_pair(old, new, &Filter::default(), clock()) {
            Ok((old, new)) => {
                let (old, new) = (Arc::new(old.clone()), Arc::new(new.clone()));
                Ok(Some(Node::Pair(Arc::new(Pair { name: name.to_string(), old, new }))))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn comparison(&self, pair: &Pair) -> Result<Arc<Comparison>> {
        let (old, new) = (pair.old.root, pair.new.root);
        let compute = || Comparison::new(self.nodes(), old, new).map(Arc::new);
        get_or_load(&self.computed.comparisons, &(old, new), compute)
    }

    pub(super) fn differing_listing(
        &self,
        pair: &Arc<Pair>,
        side: Side,
        path: &[u8],
        (old, new): (u64, u64),
    ) -> Result<Listing> {
        let comparison = self.comparison(pair)?;
        let mut out = Listing::new();
        for row in comparison.rows(self.nodes(), old, new)? {
            out.extend(self.row_entry(&comparison, pair, side, path, &row)?);
        }
        Ok(out)
    }

    pub(super) fn differing_entry(
        &self,
        pair: &Arc<Pair>,
        side: Side,
        path: &[u8],
        (old, new): (u64, u64),
        name: &[u8],
    ) -> Result<Option<Entry>> {
        let comparison = self.comparison(pair)?;
        let (old, new) = (
            paths::child(self.nodes(), &pair.old.root, old, name)?,
            paths::child(self.nodes(), &pair.new.root, new, name)?,
        );
        match comparison.row(self.nodes(), name, old, new)? {
            Some(row) => self.row_entry(&comparison, pair, side, path, &row),
            None => Ok(None),
        }
    }

    fn row_entry(
        &self,
        comparison: &Comparison,
        pair: &Arc<Pair>,
        side: Side,
        path: &[u8],
        row: &Row,
    ) -> Result<Option<Entry>> {
        if let (true, Some(old), Some(new)) = (row.goes_down(), row.old, row.new) {
            let shown = row.is_of(side) || comparison.any(self.nodes(), side, old.ino, new.ino)?;
            let below = Node::Differing {
                pair: Arc::clone(pair),
                side,
                path: join(path, &row.name),
                old: old.ino,
                new: new.ino,
            };
            return Ok(shown.then(|| Entry::node(&row.name, below)));
        }
        debug_assert!(row.difference != Difference::Below);
        let entry = if side == Side::Removed { row.old } else { row.new };
        let Some(entry) = entry.filter(|_| row.is_of(side)) else { return Ok(None) };
        Ok(self.side_ino(pair, side, entry.ino).map(|ino| Entry::inode(&row.name, entry.kind, ino)))
    }

    /// An inode in the slot of one side of a pair.
    fn side_ino(&self, pair: &Arc<Pair>, side: Side, ino: u64) -> Option<Ino> {
        let (name, point): (_, &Arc<PointRecord>) = match side {
            Side::Added => ("added", &pair.new),
            Side::Removed => ("removed", &pair.old),
            Side::Changed => ("changed", &pair.new),
        };
        let root = repo_format::ROOT_INO;
        let parent = Node::Differing { pair: Arc::clone(pair), side, path: Vec::new(), old: root, new: root }.ino();
        Ino::in_slot(self.found_slot(&self.layout(), parent, point, &format!("diff/{}/{name}", pair.name)), ino)
    }

    pub(super) fn differing_model(&self, pair: &Arc<Pair>, side: Side, (old, new): (u64, u64)) -> Option<Ino> {
        self.side_ino(pair, side, if side == Side::Removed { old } else { new })
    }
}
