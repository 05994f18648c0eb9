//! What a mount in the foreground tells systemd: that it is ready, that it lives, that it ends. Without systemd
//! nothing is told to anyone.

use sd_notify::NotifyState;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often the stop flag is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Talks to systemd until it is dropped.
pub struct Service {
    mountpoint: PathBuf,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    ending: Arc<AtomicBool>,
}

impl Service {
    /// For the mount at `mountpoint`, which `stop` ends.
    #[must_use]
    pub fn new(mountpoint: &Path, stop: &Arc<AtomicBool>) -> Self {
        Self {
            mountpoint: mountpoint.to_path_buf(),
            stop: Arc::clone(stop),
            ended: Arc::default(),
            ending: Arc::default(),
        }
    }

    /// The mount can be used. From now on systemd is told what it wants to know.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready, NotifyState::Status("mounted")]);
        let (stop, ended, ending) = (Arc::clone(&self.stop), Arc::clone(&self.ended), Arc::clone(&self.ending));
        // Files in use can keep a mount for long after it was told to stop.
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
            }
            stopping(&ending);
        });
        if let Some(limit) = sd_notify::watchdog_enabled() {
            let (path, ended) = (self.mountpoint.clone(), Arc::clone(&self.ended));
            std::thread::spawn(move || watch(&path, limit / 3, &ended));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        stopping(&self.ending);
    }
}

/// Says so once.
fn stopping(said: &AtomicBool) {
    if !said.swap(true, Ordering::Relaxed) {
        tell(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
    }
}

/// Says "alive" as long as the mount answers. One that hangs does not come back from the question, and systemd
/// starts it again.
fn watch(mountpoint: &Path, every: Duration, ended: &AtomicBool) {
    // A name that the kernel never remembers, so that the question reaches us.
    let asked = mountpoint.join("@GMT-");
    let mut last: Option<Instant> = None;
    while !ended.load(Ordering::Relaxed) {
        if last.is_none_or(|last| last.elapsed() >= every) {
            last = Some(Instant::now());
            match asked.symlink_metadata() {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tell(&[NotifyState::Status("the mount gives errors")])
                }
                _ => tell(&[NotifyState::Watchdog]),
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Nobody there, or a socket that is gone: the mount serves all the same.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
