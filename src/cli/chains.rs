//! Restore points by source: what the commands about the past of paths go through.

use crate::catalog::points::{Filter, Points};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Repository;
use repo_format::PointRecord;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The restore points of one source, oldest first.
pub type Chain = Vec<Arc<PointRecord>>;

/// The chains that `filter` admits, in order of host and source.
///
/// # Errors
/// `NotFound` when it admits none, or when the repository cannot be read.
pub fn chains(repo: &Repository, filter: &Filter) -> Result<Vec<Chain>> {
    let points = Points::new(repo.point_records()?);
    let mut out: BTreeMap<(&[u8], &[u8]), Chain> = BTreeMap::new();
    for point in points.filtered(filter) {
        out.entry((&point.host, &point.source)).or_default().push(Arc::new(point.clone()));
    }
    if out.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there are no such restore points")
            .advise("'relict snapshots' lists what there is"));
    }
    Ok(out.into_values().collect())
}
