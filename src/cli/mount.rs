//! `relict mount`: shows every restore point as a file system.
//!
//! In the background by default: the program starts itself again before it has threads or an open
//! database, gives that process the password through a pipe, and waits for it to say that the mount is
//! there. So the command returns 0 exactly when the mount can be used, and otherwise says why not.
//! In the foreground it tells systemd, if that started it (`service`).

use super::context::Context;
use super::exit::{self, Outcome};
use super::out::Out;
use super::service::Service;
use super::text::{escape, escape_path, parse_size};
use crate::catalog::points::time_name;
use crate::error::{Error, ErrorKind, Result};
use crate::mount::{self, MountOptions};
use crate::view::{Damage, Only};
use clap::Args;
use crossbeam_channel::{RecvTimeoutError, bounded};
use repo_format::Time;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// What the background process writes once the mount can be used.
const READY: u8 = b'R';
/// How often a person may type a wrong password.
const ATTEMPTS: u32 = 3;

/// Mount all restore points, read-only
#[derive(Debug, Args)]
pub struct MountArgs {
    /// Where: an existing directory
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Stay in the foreground until it is unmounted
    #[arg(short, long)]
    foreground: bool,
    /// Let other users read it too
    #[arg(long)]
    allow_other: bool,
    /// Show one source, or one of its restore points, as the root of the mount
    #[arg(long, value_name = "HOST/SOURCE[@POINT]")]
    only: Option<OsString>,
    /// Memory for content that was read
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    cache_size: String,
    /// Where what cannot be read is told [default: stderr in the foreground, else mount.log in $XDG_STATE_HOME/relict]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Tell the process that started this one when the mount is ready
    #[arg(long, hide = true)]
    notify: bool,
}

/// Runs the command.
///
/// # Errors
/// When the repository cannot be opened or nothing can be mounted there.
pub fn run(context: &Context, args: &MountArgs) -> Result<Outcome> {
    let cache_bytes = parse_size(&args.cache_size).map_err(|e| e.context("--cache-size"))?;
    let cache_bytes = usize::try_from(cache_bytes).unwrap_or(usize::MAX);
    let mountpoint = usable(&args.mountpoint)?;
    if args.notify {
        return as_background(context, args, &mountpoint, cache_bytes);
    }
    // Whatever is wrong with it is said before a password is asked for.
    args.only.as_ref().map(|only| Only::parse(only.as_bytes())).transpose()?;
    if args.foreground {
        let service = Service::new(&mountpoint, &context.stop);
        let ready = || {
            service.ready();
            say_mounted(context, &mountpoint, true)
        };
        return serve(context, args, &mountpoint, cache_bytes, &ready);
    }
    let log = background_log(args)?;
    start(context, args, &mountpoint, log.as_deref())?;
    say_mounted(context, &mountpoint, false)?;
    Ok(Outcome::Complete)
}

fn usable(path: &Path) -> Result<PathBuf> {
    let wrong = |why: String| {
        Error::new(ErrorKind::Usage, format!("nothing can be mounted at {}: {why}", escape_path(path)))
            .advise("name an existing, empty directory; an old mount there is ended by 'relict umount'")
    };
    let found = path.canonicalize().map_err(|e| wrong(e.to_string()))?;
    if found.is_dir() { Ok(found) } else { Err(wrong("it is not a directory".to_owned())) }
}

/// The log of a mount in the background. Without a place for it there is none, and that is said.
fn background_log(args: &MountArgs) -> Result<Option<PathBuf>> {
    if let Some(path) = &args.log {
        open_log(path)?;
        return std::path::absolute(path).map(Some).map_err(|e| Error::io(format!("finding {}", escape_path(path)), e));
    }
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")));
    let opened = state.map(|state| state.join("relict")).map(|dir| {
        let made = std::fs::create_dir_all(&dir).map_err(|e| Error::io(format!("creating {}", escape_path(&dir)), e));
        let path = dir.join("mount.log");
        made.and_then(|()| open_log(&path)).map(|_| path)
    });
    match opened {
        Some(Ok(path)) => Ok(Some(path)),
        Some(Err(error)) => {
            crate::tell!(
                "relict: what cannot be read in the mount will be told nowhere, for there is no log (--log FILE names one): {error}"
            );
            Ok(None)
        }
        None => {
            crate::tell!(
                "relict: what cannot be read in the mount will be told nowhere: neither HOME nor --log FILE names a place for a log"
            );
            Ok(None)
        }
    }
}

fn open_log(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let failed = |e| {
        Error::io(format!("opening the log {}", escape_path(path)), e).advise("name a file that you may write by --log")
    };
    opened.map_err(failed)
}

fn log_line(mountpoint: &Path, damage: &Damage) -> String {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let now = Time { sec: since.as_secs().cast_signed(), nsec: 0 };
    format!("{} {}: {}\n", time_name(now), escape_path(mountpoint), escape(damage.to_string().as_bytes()))
}

fn say_mounted(context: &Context, mountpoint: &Path, foreground: bool) -> Result<()> {
    let shown = escape_path(mountpoint);
    let mut out = Out::new();
    if context.json {
        out.json(&serde_json::json!({ "message_type": "mounted", "mountpoint": shown }))?;
    } else if context.chatty() {
        let end = if foreground { "Ctrl-C".to_owned() } else { format!("'relict umount {shown}'") };
        out.line(&format!("mounted at {shown}; {end} ends it"))?;
    }
    out.finish()
}

/// Mounts, says so by `ready`, and serves until it is unmounted.
fn serve(
    context: &Context,
    args: &MountArgs,
    mountpoint: &Path,
    cache_bytes: usize,
    ready: &dyn Fn() -> Result<()>,
) -> Result<Outcome> {
    let repo = context.repository(cache_bytes)?;
    // Pinned before the list is read; see store::pins.
    if let Err(e) = repo.pin() {
        crate::tell!("relict: this mount does not keep 'relict-maint prune' from removing what it shows: {e}");
    }
    repo.refresh()?;
    let only = args.only.as_ref().map(|only| Only::parse(only.as_bytes())).transpose()?;
    let mut options = MountOptions { allow_other: args.allow_other, only, ..MountOptions::default() };
    if let Some(path) = &args.log {
        let (log, mountpoint) = (open_log(path)?, mountpoint.to_path_buf());
        // What cannot be told in the log any more is told nowhere; whoever reads the file gets its error all the same.
        options.report = Arc::new(move |damage| _ = (&log).write_all(log_line(&mountpoint, damage).as_bytes()));
    }
    mount::run(repo, mountpoint, &options, ready, &context.stop)?;
    Ok(Outcome::Complete)
}

/// The background process: its standard output is the pipe on which the one that started it waits.
fn as_background(context: &Context, args: &MountArgs, mountpoint: &Path, cache_bytes: usize) -> Result<Outcome> {
    // The end of a login session is not the end of the mount.
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, ignored).map_err(|e| Error::io("catching signals", e))?;
    let ready = || {
        let told = std::io::stdout().write_all(&[READY]).and_then(|()| std::io::stdout().flush());
        // Whoever started this has given up: then nobody wants the mount.
        told.map_err(|e| Error::io("reporting that the mount is ready", e))
    };
    let served = serve(context, args, mountpoint, cache_bytes, &ready);
    if let (Err(error), false) = (&served, context.json) {
        let _ = write!(std::io::stdout(), "{}", exit::error_text(error));
    }
    served
}

/// Starts the background process and waits until the mount is ready. When it fails, its words are ours.
fn start(context: &Context, args: &MountArgs, mountpoint: &Path, log: Option<&Path>) -> Result<()> {
    let needs_password = context.needs_password()?;
    for attempt in 1.. {
        let password = if needs_password { Some(context.password.read()?) } else { None };
        let mut child = spawn(context, args, mountpoint, log, password.as_deref())?;
        let words = wait_ready(context, &mut child)?;
        let Some(words) = words else { return Ok(()) };
        let status = child.wait().map_err(|e| Error::io("waiting for the mount", e))?;
        let wrong_password = status.code() == Some(i32::from(ErrorKind::WrongPassword.exit_code()));
        if wrong_password && context.password.can_ask_again() && attempt < ATTEMPTS {
            crate::tell!("this password does not open the repository");
            continue;
        }
        if words.is_empty() {
            return Err(Error::new(ErrorKind::Io, format!("the mount ended before it was ready ({status})"))
                .advise("run it with --foreground to see what happens"));
        }
        let _ = if context.json { std::io::stdout().write_all(&words) } else { std::io::stderr().write_all(&words) };
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

fn spawn(
    context: &Context,
    args: &MountArgs,
    mountpoint: &Path,
    log: Option<&Path>,
    password: Option<&[u8]>,
) -> Result<Child> {
    let failed = |e| Error::io("starting the mount's process", e);
    let repo = std::path::absolute(context.repo_path()?).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--repo").arg(repo).arg("mount").arg(mountpoint).args(["--foreground", "--notify", "--cache-size"]);
    command.arg(&args.cache_size);
    if let Some(log) = log {
        command.arg("--log").arg(log);
    }
    command.args(args.allow_other.then_some("--allow-other")).args(context.json.then_some("--json"));
    if let Some(only) = &args.only {
        command.arg("--only").arg(only);
    }
    for name in ["RELICT_PASSWORD", "RELICT_PASSWORD_FILE", "RELICT_PASSWORD_COMMAND", "RELICT_PASSWORD_FD"] {
        command.env_remove(name);
    }
    // Neither the terminal nor the directory it was started in is the mount's to hold.
    let stderr = log.map_or_else(|| Ok(Stdio::null()), |log| open_log(log).map(Stdio::from))?;
    command.current_dir("/").process_group(0).stdout(Stdio::piped()).stderr(stderr);
    match password {
        Some(_) => command.env("RELICT_PASSWORD_FD", "0").stdin(Stdio::piped()),
        None => command.stdin(Stdio::null()),
    };
    let mut child = command.spawn().map_err(failed)?;
    if let (Some(password), Some(mut pipe)) = (password, child.stdin.take()) {
        // A child that ended already says why on its own pipe.
        let _ = pipe.write_all(password).and_then(|()| pipe.write_all(b"\n"));
    }
    Ok(child)
}

/// None when the mount is ready, else all that the process has said before it ended.
fn wait_ready(context: &Context, child: &mut Child) -> Result<Option<Vec<u8>>> {
    let mut pipe = child.stdout.take().ok_or_else(|| Error::new(ErrorKind::Io, "the mount's process has no output"))?;
    let (send, receive) = bounded(1);
    std::thread::spawn(move || {
        let mut first = [0];
        let words = match pipe.read(&mut first) {
            Ok(1) if first == [READY] => None,
            Ok(got) => {
                let mut words = first.get(..got).unwrap_or_default().to_vec();
                let _ = pipe.read_to_end(&mut words);
                Some(words)
            }
            Err(_) => Some(Vec::new()),
        };
        let _ = send.send(words);
    });
    loop {
        match receive.recv_timeout(Duration::from_millis(50)) {
            Ok(words) => return Ok(words),
            Err(RecvTimeoutError::Disconnected) => return Ok(Some(Vec::new())),
            // The process finds its pipe closed when it is ready, and unmounts.
            Err(RecvTimeoutError::Timeout) if context.stop.load(Ordering::Relaxed) => {
                return Err(
                    Error::new(ErrorKind::Interrupted, "interrupted before the mount was ready").advise("run it again")
                );
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}
