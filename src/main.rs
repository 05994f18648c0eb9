//! The `relict` program; everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    relict::cli::main()
}
