//! Restore points by source: what the commands about the past of paths go through.

use super::text::escape_lines;
use crate::catalog::points::{Filter, Points};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Repository;
use repo_format::PointRecord;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The restore points of one source, oldest first.
pub type Chain = Vec<Arc<PointRecord>>;

/// The visible points whose records can be read; the others are told on standard error, and counted. Who asks for the
/// latest must know that it is not the one that is given.
///
/// # Errors
/// When the index cannot be read.
pub fn readable(repo: &Repository) -> Result<(Points, usize)> {
    let mut all = repo.points()?;
    if all.iter().any(|(_, record)| record.is_err()) {
        // A prune beside us may have taken it away since the index was opened.
        repo.refresh()?;
        all = repo.points()?;
    }
    let mut unreadable = 0;
    for (id, record) in &all {
        if let Err(error) = record {
            unreadable += 1;
            crate::tell!(
                "relict: restore point {id} is not shown, its record cannot be read: {}",
                escape_lines(&error.to_string())
            );
        }
    }
    if unreadable > 0 {
        crate::tell!(
            "relict: {} there and cannot be read; 'relict-maint check' says why, and 'relict-maint repair' what can be done",
            if unreadable == 1 { "1 restore point is".to_owned() } else { format!("{unreadable} restore points are") }
        );
    }
    let records = all.into_iter().filter_map(|(_, record)| record.ok()).map(|record| PointRecord::clone(&record));
    Ok((Points::new(records.collect()), unreadable))
}

/// The chains that `filter` admits, in order of host and source.
///
/// # Errors
/// `NotFound` when it admits none, or when the repository cannot be read.
pub fn chains(repo: &Repository, filter: &Filter) -> Result<Vec<Chain>> {
    let (points, _) = readable(repo)?;
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
