//! A repository as the library shows it. The programs say the same and take some ten times as long, most of it to start; so in
//! a run of all faults only some repositories are listed and restored by programs (see [`crate::run::Run::look`]).

use relict::restore::{Options, Progress, plan};
use relict::store::{OpenOptions, Repository};
use repo_format::PointRecord;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// An open repository and its visible restore points.
pub struct Look {
    repository: Arc<Repository>,
    points: Vec<Arc<PointRecord>>,
}

impl Look {
    /// Opens it; as `relict snapshots`, not content with a point whose record cannot be read.
    pub fn open(repo: &Path, password: &str) -> Result<Self, String> {
        let mut unlock = || Ok(password.as_bytes().to_vec());
        let mut open = || -> relict::Result<Self> {
            let repository = Repository::open(repo, &mut unlock, &OpenOptions::default())?;
            let points = repository.points()?.into_iter().map(|(_, record)| record).collect::<relict::Result<_>>()?;
            Ok(Self { repository, points })
        };
        open().map_err(|error| error.to_string())
    }

    pub fn ids(&self) -> Vec<String> {
        self.points.iter().map(|point| point.id.to_string()).collect()
    }

    /// Restores a path of a point. What could not be restored, a comparison finds.
    pub fn restore(&self, id: &str, path: &str, target: &Path) -> Result<(), String> {
        let point = self.points.iter().find(|point| point.id.to_string() == id).ok_or("it is not there")?;
        let options = Options { target: target.to_owned(), threads: 1, ..Options::default() };
        let done = plan(&self.repository, point, path.as_bytes(), options)
            .and_then(|plan| plan.execute(&self.repository, &Progress::default(), &AtomicBool::new(false)));
        done.map(drop).map_err(|error| error.to_string())
    }
}
