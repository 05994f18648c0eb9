//! Writes `vectors/` anew from the samples. Committed vectors are law: a change of an existing file is a
//! change of the format, and `tests/vectors.rs` fails until the samples say the same.

#[path = "../tests/support/samples.rs"]
#[allow(dead_code, missing_docs, reason = "shared with the tests, which use all of it")]
mod samples;

fn main() -> std::io::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut files = 0;
    for record in samples::records() {
        let folder = root.join(record.folder);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in record.files() {
            std::fs::write(folder.join(name), bytes)?;
            files += 1;
        }
    }
    println!("{files} vectors in {}", root.display());
    Ok(())
}
