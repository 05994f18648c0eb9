//! The command line's shape, and sentences that people read.

use super::*;

fn parsed(line: &str) -> std::result::Result<Cli, clap::Error> {
    parse(line.split_whitespace().map(OsString::from))
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn options_of_every_command_stand_before_or_behind_it() {
    for line in ["relict -r /x --json snapshots", "relict snapshots -r /x --json", "relict --json snapshots --repo /x"]
    {
        let cli = parsed(line).unwrap();
        assert_eq!(cli.global.repo, Some("/x".into()), "{line}");
        assert!(cli.global.json);
    }
}

#[test]
fn every_documented_option_is_understood() {
    for line in [
        "relict init --insecure-no-password --store rocksdb --chunk-size 128K",
        "relict backup /a /b --tag t --tag u --host h --source s --exclude *.o --iexclude *.O --exclude-file f \
         --exclude-caches --exclude-if-present .nobackup --exclude-larger-than 1G -x --force --parent latest~1 \
         --memory 128M --threads 2",
        "relict snapshots --host h --source s --tag t --json",
        "relict ls latest:/etc -l -R",
        "relict find *.conf --all -i --newer -7d --size +1M --type f --host h",
        "relict find *.conf --point latest --point -7d --size -1M",
        "relict versions /etc/passwd --source s --json",
        "relict diff -7d latest --stat --host h",
        "relict backup /a --set 0123abcd-4567-89ef-0123-456789abcdef",
        "relict mount /mnt --only web/etc@latest",
        "relict mount /mnt -f --allow-other --cache-size 64M",
        "relict umount /mnt -l",
        "relict restore latest:/etc -t /tmp/x --include a --exclude b --overwrite never --verify --dry-run --threads 4",
        "relict cat latest:/etc/passwd --password-file /p",
        "relict version -q --no-progress --password-command p",
    ] {
        let known = parsed(line);
        assert!(known.is_ok(), "{line}: {}", known.unwrap_err());
    }
}

#[test]
fn nothing_here_deletes() {
    let names: Vec<_> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    assert_eq!(
        names,
        [
            "init",
            "backup",
            "ingest",
            "snapshots",
            "ls",
            "find",
            "versions",
            "diff",
            "mount",
            "umount",
            "restore",
            "cat",
            "version"
        ]
    );
}

#[test]
fn what_contradicts_is_refused() {
    for line in [
        "relict",
        "relict forget latest",
        "relict backup",
        "relict restore latest",
        "relict snapshots -q -v",
        "relict find x --all --point latest",
        "relict ls latest --password-file a --password-command b",
        "relict restore latest -t x --overwrite sometimes",
    ] {
        assert!(parsed(line).is_err(), "{line}");
    }
}

#[test]
fn help_names_every_exit_code() {
    let help = Cli::command().render_help().to_string();
    for code in ["0 ", "1 ", "2 ", "3 ", "10 ", "11 ", "12 ", "130 ", "141 "] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(code)), "{code} in {help}");
    }
}

#[test]
fn every_option_has_a_description() {
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn help_of_the_program() {
    let mut command = Cli::command().term_width(100);
    insta::assert_snapshot!("help", command.render_help().to_string());
}
