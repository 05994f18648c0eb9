//! `relict ingest image`: a disk image, a block device, or an NBD export.

use super::super::context::Context;
use super::super::exit::Outcome;
use super::{CommonArgs, conduct};
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::image::nbd::uri::NbdUri;
use crate::ingest::image::{Changes, ImageOptions, Place, ingest_image};
use crate::ingest::stream::Scope;
use clap::Args;
use repo_format::SourceKind;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Read a disk into a restore point: all of it, or what changed
///
/// The disk becomes the file NAME.raw of the restore point, NAME being the last part of the source's name.
#[derive(Debug, Args)]
#[command(after_help = CHANGES)]
pub struct ImageArgs {
    /// The image file or block device
    #[arg(value_name = "PATH", required_unless_present = "nbd", conflicts_with = "nbd")]
    path: Option<PathBuf>,
    /// The disk is an export of an NBD server, such as qemu-nbd: nbd://HOST[:PORT]/EXPORT or
    /// nbd+unix:///EXPORT?socket=PATH
    #[arg(long, value_name = "URI")]
    nbd: Option<String>,
    /// Read only what this QEMU dirty bitmap of the NBD server marks
    #[arg(long, value_name = "NAME", requires = "nbd", conflicts_with = "extents")]
    bitmap: Option<String>,
    /// Read only what is listed in FILE: relict's JSON, 'qemu-img map --output=json' of an overlay, or thin_delta's XML
    #[arg(long, value_name = "FILE")]
    extents: Option<PathBuf>,
    /// Against which state the bitmap or list is: a state's name, or a restore point [default: what the list says; of
    /// a bitmap, the state of the bitmap's name]
    #[arg(long, value_name = "STATE")]
    base: Option<OsString>,
    /// Name this state, so that later lists can be against it; name it as the bitmap that begins now
    #[arg(long, value_name = "NAME")]
    state: Option<OsString>,
    /// Leave out the content of Linux swap partitions (MBR and GPT)
    #[arg(long)]
    skip_swap: bool,
    #[command(flatten)]
    common: CommonArgs,
}

const CHANGES: &str = "\
A bitmap or list is used only when the repository has the state that it is against. If it cannot be used, the whole
disk is read and compared, and the restore point says why. A chain with dirty bitmaps, each begun by 'qemu-img
bitmap --add' at the moment of the state that is read:
  relict ingest image --nbd URI --source kvm1:vm/sda --state bk0
  relict ingest image --nbd URI --source kvm1:vm/sda --bitmap bk0 --state bk1
  relict ingest image --nbd URI --source kvm1:vm/sda --bitmap bk1 --state bk2";

/// Longest name of a state, in bytes.
const MAX_STATE_BYTES: usize = 255;

/// Runs the command.
///
/// # Errors
/// As those of `conduct`, and when the disk cannot be read.
pub fn run(context: &Context, args: ImageArgs) -> Result<Outcome> {
    let options = options(args)?;
    conduct(context, |writer, progress| Ok(vec![ingest_image(writer, &options, progress, &context.stop)?]))
}

fn options(args: ImageArgs) -> Result<ImageOptions> {
    let place = match (args.path, &args.nbd) {
        (Some(path), _) => Place::Path(path),
        (None, Some(uri)) => Place::Nbd(NbdUri::parse(uri)?),
        (None, None) => return Err(Error::new(ErrorKind::Usage, "no disk was named")),
    };
    let state = args.state.as_ref().map(|state| state.as_bytes().to_vec());
    if state.as_ref().is_some_and(|state| state.is_empty() || state.len() > MAX_STATE_BYTES) {
        return Err(Error::new(ErrorKind::Usage, format!("--state: a name has 1 to {MAX_STATE_BYTES} bytes")));
    }
    Ok(ImageOptions {
        stream: args.common.options(SourceKind::Image, Scope::Chain)?,
        place,
        changes: args.bitmap.map(Changes::Bitmap).or(args.extents.map(Changes::List)),
        base: args.base.map(|base| base.as_bytes().to_vec()),
        state,
        skip_swap: args.skip_swap,
    })
}
