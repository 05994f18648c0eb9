//! `relict-maint keys`: who can open the repository. The master key never changes, so nothing that is stored is written again.

mod qr;
mod sheet;

use clap::{Args, Subcommand, ValueEnum};
use relict::cli::context::Context;
use relict::cli::exit::Outcome;
use relict::cli::password::PasswordSource;
use relict::cli::text;
use relict::store::{DEFAULT_KDF, Keyring, SlotFile, list_slots};
use relict::{Error, ErrorKind, Result};
use repo_format::KeySlot;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest file that is looked at as a sheet.
const MAX_SHEET_BYTES: u64 = 64 * 1024;

/// Options of `keys`.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the key slots
    List,
    /// Add a slot: one more password for the same data
    Add {
        #[command(flatten)]
        new: NewPassword,
        /// What to call the slot
        #[arg(long, default_value = "")]
        label: String,
        /// Make this file with a random key and let that be the password (then: --password-file FILE)
        #[arg(long, value_name = "FILE", conflicts_with_all = ["new_password_file", "new_password_command"])]
        new_key_file: Option<PathBuf>,
    },
    /// Change the password of the slot that the present password opens
    Change {
        #[command(flatten)]
        new: NewPassword,
    },
    /// Remove a slot; the present password must be that of a slot that stays
    Remove {
        /// The slot's name, or the beginning of it, as 'keys list' shows it
        slot: String,
    },
    /// Write a recovery sheet: a slot on paper, still locked by its password
    Export {
        /// The slot's name, or the beginning of it; needed when there are several
        slot: Option<String>,
        /// What to write
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Bring a slot back from a recovery sheet, the text of its QR code, or a copy of its file
    Import {
        /// The file; - reads standard input
        file: PathBuf,
    },
}

#[derive(Args)]
struct NewPassword {
    /// Read the new password from this file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// Read the new password from this command's output
    #[arg(long, value_name = "COMMAND")]
    new_password_command: Option<String>,
}

impl NewPassword {
    /// Options first, then RELICT_NEW_PASSWORD, _FILE, _COMMAND, _FD, then the terminal.
    fn read(&self) -> Result<Vec<u8>> {
        let environment =
            |name: &str| -> Option<OsString> { std::env::var_os(name.replacen("RELICT_", "RELICT_NEW_", 1)) };
        let source = PasswordSource::choose(
            self.new_password_file.as_deref(),
            self.new_password_command.as_deref(),
            &environment,
        );
        source.read_new_for("new password: ")
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// The sheet: numbered lines to type in, and the QR code in blocks
    Text,
    /// The same, with the QR code in plain ASCII
    Ascii,
    /// The QR code alone, as SVG
    Svg,
}

/// Does what was asked.
pub fn run(context: &Context, options: &Options) -> Result<Outcome> {
    match &options.command {
        Command::List => list(context)?,
        Command::Add { new, label, new_key_file } => add(context, new, label, new_key_file.as_deref())?,
        Command::Change { new } => {
            let ring = Keyring::open(context.repo_path()?)?;
            let slot = ring.unlock(&context.password.read()?, None)?;
            let name = ring.change(&slot, &new.read()?)?;
            let old = slot.name();
            say(
                context,
                &json!({"slot": name, "removed": old}),
                &format!("slot {name} takes the place of {old}; the old password no longer opens the repository"),
            );
        }
        Command::Remove { slot } => {
            let name = find(context.repo_path()?, slot)?.name;
            let ring = Keyring::open(context.repo_path()?)?;
            ring.remove(&name, &keeper(&ring, context, &name)?)?;
            say(context, &json!({"removed": name}), &format!("removed key slot {name}"));
        }
        Command::Export { slot, format } => export(context, slot.as_deref(), *format)?,
        Command::Import { file } => import(context, file)?,
    }
    Ok(Outcome::Complete)
}

fn say(context: &Context, json: &Value, text: &str) {
    if context.json {
        let mut json = json.clone();
        if let Some(map) = json.as_object_mut() {
            map.insert("message_type".into(), "summary".into());
        }
        say!("{json}");
    } else if context.chatty() {
        say!("{text}");
    }
}

/// A slot that stays when `name` goes: proof that somebody can still open the repository.
fn keeper(ring: &Keyring, context: &Context, name: &str) -> Result<relict::store::Unlocked> {
    ring.unlock(&context.password.read()?, Some(name)).map_err(|e| match e.kind() {
        ErrorKind::WrongPassword => e.advise(
            "to remove a slot give the password of one that stays; the last slot is never removed. Nothing was changed",
        ),
        _ => e,
    })
}

fn add(context: &Context, new: &NewPassword, label: &str, key_file: Option<&Path>) -> Result<()> {
    let ring = Keyring::open(context.repo_path()?)?;
    let by = ring.unlock(&context.password.read()?, None)?;
    let password = match key_file {
        Some(file) => make_key_file(file)?,
        None => new.read()?,
    };
    let name = ring.add(&by, &password, DEFAULT_KDF, label)?;
    say(context, &json!({"slot": name}), &format!("added key slot {name}"));
    Ok(())
}

/// A new file with 64 random hexadecimal digits. An existing file is never overwritten.
fn make_key_file(path: &Path) -> Result<Vec<u8>> {
    let failed = |e| Error::io(format!("making the key file {}", text::escape_path(path)), e);
    let key: String = relict::store::random_bytes::<32>()?.iter().map(|b| format!("{b:02x}")).collect();
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(format!("{key}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    Ok(key.into_bytes())
}

fn list(context: &Context) -> Result<()> {
    let slots = list_slots(context.repo_path()?)?;
    if context.json {
        slots.iter().for_each(|slot| say!("{}", slot_json(slot)));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = slots.iter().map(row).collect();
    crate::say::text(&text::table(&["slot", "password hash", "label"], &[false, false, false], &rows));
    Ok(())
}

fn row(file: &SlotFile) -> Vec<String> {
    let (cost, label) = match &file.slot {
        Ok(slot) => (cost(slot), relict::catalog::points::printable(&slot.label)),
        Err(e) => (format!("damaged: {e}"), String::new()),
    };
    vec![text::escape_lines(&file.name).trim_end().to_owned(), cost, label]
}

fn cost(slot: &KeySlot) -> String {
    let kdf = slot.kdf;
    format!("argon2id, {}, {} passes, {} lanes", text::size(u64::from(kdf.memory_kib) << 10), kdf.passes, kdf.lanes)
}

fn slot_json(file: &SlotFile) -> Value {
    match &file.slot {
        Ok(slot) => json!({
            "message_type": "key_slot",
            "slot": file.name,
            "label": text::json_text(&slot.label),
            "repository": slot.repo.to_string(),
            "memory_kib": slot.kdf.memory_kib,
            "passes": slot.kdf.passes,
            "lanes": slot.kdf.lanes,
        }),
        Err(e) => json!({"message_type": "key_slot", "slot": file.name, "damaged": e.to_string()}),
    }
}

/// The one slot whose name begins so.
fn find(path: &Path, begin: &str) -> Result<SlotFile> {
    let mut fits: Vec<SlotFile> = list_slots(path)?.into_iter().filter(|s| s.name.starts_with(begin)).collect();
    match (fits.pop(), fits.is_empty()) {
        (Some(slot), true) => Ok(slot),
        (Some(_), false) if begin.is_empty() => {
            Err(Error::new(ErrorKind::Usage, "the repository has several key slots, and none was named")
                .advise("'relict-maint keys list' names them; give the first digits of one"))
        }
        (Some(_), false) => Err(Error::new(
            ErrorKind::Usage,
            format!("more than one key slot begins with '{}'", text::escape_lines(begin).trim_end()),
        )
        .advise("'relict-maint keys list' names them; give more digits")),
        (None, _) => Err(Error::new(
            ErrorKind::NotFound,
            format!("no key slot begins with '{}'", text::escape_lines(begin).trim_end()),
        )
        .advise("'relict-maint keys list' names them")),
    }
}

fn export(context: &Context, begin: Option<&str>, format: Format) -> Result<()> {
    let file = find(context.repo_path()?, begin.unwrap_or_default())?;
    let slot = file.slot.map_err(|e| {
        e.context(format!("key slot {}", file.name)).advise("a damaged slot cannot be exported; take another one")
    })?;
    let code = sheet::qr_text(&slot);
    if context.json {
        say!("{}", json!({"message_type": "summary", "slot": file.name, "lines": sheet::lines(&slot), "qr": code}));
        return Ok(());
    }
    match format {
        Format::Svg => crate::say::text(&qr::svg(&code)?),
        Format::Text => print_sheet(&slot, &file.name, &qr::unicode(&code)?),
        Format::Ascii => print_sheet(&slot, &file.name, &qr::ascii(&code)?),
    }
    Ok(())
}

fn print_sheet(slot: &KeySlot, name: &str, code: &str) {
    say!("relict recovery sheet");
    say!("  repository {}", slot.repo);
    say!("  key slot   {name} {}", relict::catalog::points::printable(&slot.label));
    say!("");
    say!("This is one key slot of the repository. It opens with the password that the slot has now, and");
    say!("with nothing else: keep it apart from the password. To use it when keys/ is lost, type the");
    say!("lines below (or the text of the code) into a file and run: relict-maint -r REPO keys import FILE");
    say!("");
    sheet::lines(slot).iter().for_each(|line| say!("{line}"));
    say!("");
    say!("{code}");
}

fn import(context: &Context, file: &Path) -> Result<()> {
    let mut input = Vec::new();
    let from: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(|e| Error::io(format!("opening {}", text::escape_path(file)), e))?)
    };
    from.take(MAX_SHEET_BYTES + 1)
        .read_to_end(&mut input)
        .map_err(|e| Error::io(format!("reading {}", text::escape_path(file)), e))?;
    let slot = sheet::parse(&input)?;
    let ring = Keyring::open(context.repo_path()?)?;
    let imported = ring.import(&slot, &context.password.read()?)?;
    let aside = imported.aside.as_ref().map(|p| p.display().to_string());
    let what = match (&aside, imported.new) {
        (_, false) => format!("key slot {} is there already and is sound", imported.name),
        (None, _) => format!("key slot {} is back", imported.name),
        (Some(aside), _) => format!("key slot {} is back; the damaged file is kept as {aside}", imported.name),
    };
    say(context, &json!({"slot": imported.name, "new": imported.new, "aside": aside}), &what);
    Ok(())
}
