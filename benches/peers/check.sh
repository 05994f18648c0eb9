#!/bin/sh
# check with all data, beside other tools, on the same data: benches/peers/check.sh DIR...
# RELICT_BIN names the directory of relict and relict-maint, PEERS the others that are installed (restic rustic borg),
# RUNS how often each runs. Prints seconds, user seconds and peak memory of each run.
set -eu
[ $# -gt 0 ] || { echo "usage: $0 DIR-OR-FILE..." >&2; exit 2; }
PATH="${RELICT_BIN:?names the directory of relict and relict-maint}:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export RELICT_PASSWORD=bench RESTIC_PASSWORD=bench RUSTIC_PASSWORD=bench BORG_PASSPHRASE=bench
export BORG_BASE_DIR="$work/borg-home" XDG_CACHE_HOME="$work/cache" BORG_RELOCATED_REPO_ACCESS_IS_OK=yes

measure() {
    for run in $(seq "${RUNS:-3}"); do
        command time -f "%e s, %U s user, %M KiB: $*" -o "$work/time" "$@" >/dev/null 2>&1 || echo "FAILED: $*"
        cat "$work/time"
    done
}

relict -r "$work/relict" -q init
for path in "$@"; do relict -r "$work/relict" -q backup "$path"; done
measure relict-maint -r "$work/relict" -q check --read-data
measure relict-maint -r "$work/relict" -q check
rm -rf "$work/relict"
for peer in ${PEERS:-restic}; do
    case $peer in
    restic)
        restic -q -r "$work/restic" init
        for path in "$@"; do restic -q -r "$work/restic" backup "$path"; done
        measure restic -q -r "$work/restic" check --read-data ;;
    rustic)
        rustic --log-level error -r "$work/rustic" init >/dev/null
        for path in "$@"; do rustic --log-level error -r "$work/rustic" backup "$path" >/dev/null; done
        measure rustic --log-level error -r "$work/rustic" check --read-data ;;
    borg)
        borg init -e repokey-blake2 "$work/borg" 2>/dev/null
        number=0
        for path in "$@"; do number=$((number + 1)); borg create "$work/borg::$number" "$path"; done
        measure borg check --verify-data "$work/borg" ;;
    esac
    rm -rf "$work/$peer"
done
