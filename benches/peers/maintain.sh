#!/usr/bin/env bash
# Maintenance beside other tools, on the same data: check with all data, forget and prune of one point of several, rebuild of
# the index.
#
#   benches/peers/maintain.sh WORK make TOOL DATA...    a repository of TOOL in WORK, one restore point for each of DATA
#   benches/peers/maintain.sh WORK measure TOOL         RUNS (3) runs of each work; the last point is the one that goes
#   benches/peers/maintain.sh WORK table                medians and ratios of what was measured
#   benches/peers/maintain.sh WORK all DATA...          all of it, with every tool of PEERS ("restic borg rustic") that is there
#
# RELICT_BIN names the directory of relict and relict-maint. All encrypted, default settings, page cache warm. Forget and prune
# run on a copy of the repository each time. Bytes freed are those of du before and after; bytes written are what the kernel
# counts for the processes (the O of time(1), in blocks of 512 bytes).
set -euo pipefail
bin=${RELICT_BIN:-$(cd "$(dirname "$0")/../.." && pwd)/target/release}
export PATH="$bin:$PATH"
work=$1 step=$2
shift 2
export RELICT_PASSWORD=bench RESTIC_PASSWORD=bench BORG_PASSPHRASE=bench RUSTIC_PASSWORD=bench
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_CHECK_I_KNOW_WHAT_I_AM_DOING=YES
export XDG_CACHE_HOME="$work/cache" BORG_BASE_DIR="$work/borg-home"
runs=${RUNS:-3}
mkdir -p "$work"

relict_make() { relict init -q -r "$1"; }
relict_add() { relict backup -q -r "$1" --source "bench$3" "$2"; }
relict_check() { relict-maint -q -r "$1" check --read-data; }
relict_prune() {
  relict-maint -q -r "$1" forget --yes --unsafe-allow-remove-all latest
  relict-maint -q -r "$1" prune --yes
}
relict_rebuild() { relict-maint -q -r "$1" rebuild; }
restic_make() { restic -q -r "$1" init; }
restic_add() { restic -q -r "$1" backup "$2"; }
restic_check() { restic -q -r "$1" check --read-data; }
restic_prune() { restic -q -r "$1" forget latest && restic -q -r "$1" prune; }
restic_rebuild() { restic -q -r "$1" rebuild-index --read-all-packs; }
rustic_make() { rustic --log-level error -r "$1" init; }
rustic_add() { rustic --log-level error -r "$1" backup "$2"; }
rustic_check() { rustic --log-level error -r "$1" check --read-data; }
rustic_prune() {
  local last
  last=$(rustic --log-level error -r "$1" snapshots --json |
    python3 -c 'import json,sys; s=[x for g in json.load(sys.stdin) for x in (g["snapshots"] if "snapshots" in g else g[1])]; print(max(s, key=lambda x: x["time"])["id"])')
  rustic --log-level error -r "$1" forget "$last"
  rustic --log-level error -r "$1" prune --instant-delete
}
rustic_rebuild() { rustic --log-level error -r "$1" repair index --read-all; }
borg_make() { borg init -e repokey-blake2 "$1"; }
# borg reads a device or image only when told so.
borg_add() { borg create --read-special "$1::$3" "$2"; }
borg_check() { borg check --verify-data "$1"; }
borg_prune() { borg delete "$1::$(borg list --last 1 --short "$1")" && borg compact --threshold 0 "$1"; }

# note TOOL NAME VALUE
note() { echo "$2|$1|$3" >> "$work/results"; }
size() { du -s -B1 "$1" | cut -f1; }

# clock TOOL WORK REPO: runs it, notes seconds, and bytes written.
clock() {
  local tool=$1 what=$2 repo=$3
  export -f "${tool}_$what"
  command time -f '%e %O' -o "$work/time" bash -c "set -e; ${tool}_$what '$repo'" > "$work/log" 2>&1 ||
    { echo "FAILED: $tool $what"; tail -5 "$work/log"; return 1; }
  read -r seconds blocks < <(tail -1 "$work/time")
  note "$tool" "$what, s" "$seconds"
  written=$((blocks * 512))
}

make() {
  local tool=$1 number=0; shift
  rm -rf "${work:?}/$tool"
  "${tool}_make" "$work/$tool" > /dev/null 2>&1
  for data in "$@"; do
    number=$((number + 1))
    "${tool}_add" "$work/$tool" "$data" "$number" > /dev/null 2>&1
  done
  note "$tool" "repository, MB" "$(($(size "$work/$tool") / 1000000))"
}

measure() {
  local tool=$1 before after
  for _ in $(seq "$runs"); do
    cat $(find "$work/$tool" -type f) > /dev/null
    clock "$tool" check "$work/$tool" || return 0
  done
  # borg remembers the newest state that it has seen of a repository, and refuses an older one.
  mkdir -p "$BORG_BASE_DIR"
  rm -rf "$work/borg-kept"
  cp -a "$BORG_BASE_DIR" "$work/borg-kept"
  for _ in $(seq "$runs"); do
    rm -rf "$work/copy" "$BORG_BASE_DIR"
    cp -a "$work/borg-kept" "$BORG_BASE_DIR"
    cp -a "$work/$tool" "$work/copy"
    sync
    before=$(size "$work/copy")
    clock "$tool" prune "$work/copy" || continue
    after=$(size "$work/copy")
    note "$tool" "freed, MB" "$(python3 -c "print(($before - $after) / 1e6)")"
    note "$tool" "written, MB" "$(python3 -c "print($written / 1e6)")"
    note "$tool" "written / freed, %" "$(python3 -c "print(100 * $written / max(1, $before - $after))")"
    if declare -F "${tool}_rebuild" > /dev/null; then clock "$tool" rebuild "$work/copy" || true; fi
  done
  rm -rf "$work/copy" "$work/borg-kept"
}

table() {
  python3 - "$work/results" <<'PY'
import collections, statistics, sys
rows = collections.defaultdict(lambda: collections.defaultdict(list))
for line in open(sys.argv[1]):
    name, tool, value = line.strip().split("|")
    rows[name][tool].append(float(value))
tools = [t for t in ("relict", "restic", "rustic", "borg") if any(t in r for r in rows.values())]
names = {"check, s": "check with all data, s", "prune, s": "forget + prune of one point, s", "rebuild, s": "index from packages, s"}
print("| work | " + " | ".join(tools) + " |")
print("|---" * (len(tools) + 1) + "|")
for name, row in rows.items():
    mine = statistics.median(row["relict"]) if "relict" in row else None
    cells = []
    for tool in tools:
        if tool not in row:
            cells.append("-")
            continue
        value = statistics.median(row[tool])
        ratio = f" ({mine / value:.2f})" if mine is not None and tool != "relict" and value and name.endswith(", s") else ""
        cells.append(f"{value:.2f}{ratio}" if name.endswith("s") or name.endswith("%") else f"{value:.1f}")
    print(f"| {names.get(name, name)} | " + " | ".join(cells) + " |")
PY
}

case $step in
  make) make "$@" ;;
  measure) measure "$1" ;;
  table) table ;;
  all)
    rm -f "$work/results"
    for tool in relict ${PEERS-restic borg rustic}; do
      command -v "$tool" > /dev/null || { echo "left out, not installed: $tool" >&2; continue; }
      make "$tool" "$@"
      measure "$tool"
    done
    table ;;
  *) echo "what is '$step'?" >&2; exit 2 ;;
esac
