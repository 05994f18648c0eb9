#!/usr/bin/env bash
# The same work through relict and the tools it answers to, in one run, and the ratios between them.
#
#   benches/peers/run.sh [DATA]      DATA/v1 and DATA/v2: two states of one tree (default: made from /usr); none: no trees
#   IMAGES="v1.raw v2.raw"           two states of a disk image, too; BIG=DIR a directory of large files, too
#   ONE=yes                          all of it in one repository instead, without times: what each step adds to it
#   RUNS=3                           runs of each step; the median is printed
#   COPIES=3                         in so many of the runs everything is copied out of the mounts, which takes minutes
#   PEERS="restic borg bupstash rustic"   tools to compare with; those that are not installed are left out and named
#   KEPT=FILE                        figures are added to FILE, and the table is of all that is in it: runs in pieces
#
# All encrypted, all with default settings, page cache warm for the source. Every tool gets a new repository for
# every run, as root on a disk of its own beside what it reads, and restores to another (DISK_GIB=8 each; 0: directories).
# Times are wall seconds of the whole process, memory is the peak of its largest process.
set -euo pipefail

bin=${RELICT_BIN:-$(cd "$(dirname "$0")/../.." && pwd)/target/release}
export PATH="$bin:$PATH"
runs=${RUNS:-3}
copies=${COPIES:-$runs}
work=$(mktemp -d "${TMPDIR:-/tmp}/relict-peers.XXXXXX")
. "$(dirname "$0")/../disk.sh"
disk=$work/disk out=$work/out
trap 'umount -q -l "$work"/mnt 2>/dev/null || true; end_disk "$disk"; end_disk "$out"; rm -rf "$work"' EXIT
mkdir "$work/mnt"

data=${1:-}
if [ -z "$data" ]; then
  data=$work/data
  mkdir -p "$data/v1"
  cp -a /usr/share /usr/include "$data/v1/"
  cp -a "$data/v1" "$data/v2"
  find "$data/v2" -type f | sort > "$work/list"
  awk 'NR % 40 == 0' "$work/list" | while IFS= read -r f; do echo changed >> "$f"; done
  awk 'NR % 97 == 0' "$work/list" | tr '\n' '\0' | xargs -0 rm -f
fi
[ "$data" = none ] || data=$(cd "$data" && pwd)

export RELICT_PASSWORD=bench RESTIC_PASSWORD=bench BORG_PASSPHRASE=bench RUSTIC_PASSWORD=bench
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
export XDG_CACHE_HOME="$disk/cache" BORG_BASE_DIR="$disk/borg" BUPSTASH_KEY="$work/bupstash.key"

# What each tool calls the work. $1 = source for backups, target for restores; $repo = its repository.
relict_init() { relict init -q -r "$repo"; }
relict_backup() { relict backup -q -r "$repo" --source bench "$1"; }
relict_restore() { relict restore -q -r "$repo" "latest:$2" -t "$1"; }
relict_mount() { relict mount -q -r "$repo" "$work/mnt"; shown="$work/mnt/latest$1"; }
restic_init() { restic -q -r "$repo" init; }
restic_backup() { restic -q -r "$repo" backup "$1"; }
restic_restore() { restic -q -r "$repo" restore latest -t "$1"; }
restic_mount() {
  restic -q -r "$repo" mount "$work/mnt" > /dev/null 2>&1 &
  until [ -e "$work/mnt/snapshots/latest$1" ]; do sleep 0.05; done
  shown="$work/mnt/snapshots/latest$1"
}
borg_init() { borg init -e repokey-blake2 "$repo" 2> /dev/null; }
borg_backup() { borg create -C zstd,3 "$repo::$(date +%s%N)" "$1"; }
borg_restore() { mkdir -p "$1" && (cd "$1" && borg extract "$repo::$(borg list --last 1 --short "$repo")"); }
borg_mount() { borg mount "$repo::$(borg list --last 1 --short "$repo")" "$work/mnt"; shown="$work/mnt$1"; }
bupstash_init() { bupstash new-key -o "$BUPSTASH_KEY" 2> /dev/null || true; bupstash init -r "$repo"; }
bupstash_backup() { bupstash put -q -r "$repo" --send-log "$repo.log" name=bench "$1" > /dev/null; }
bupstash_restore() {
  local id; id=$(bupstash list -q -r "$repo" --format jsonl1 2>/dev/null | tail -1 | sed 's/.*"id":"\([0-9a-f]*\)".*/\1/')
  mkdir -p "$1" && bupstash restore -q -r "$repo" --into "$1" "id=$id" > /dev/null
}
rustic_init() { rustic -r "$repo" init > /dev/null 2>&1; }
rustic_backup() { rustic -r "$repo" backup "$1" > /dev/null 2>&1; }
rustic_restore() { rustic -r "$repo" restore latest "$1" > /dev/null 2>&1; }

tools=(relict)
for tool in ${PEERS-restic borg bupstash rustic}; do
  if command -v "$tool" > /dev/null; then tools+=("$tool"); else echo "left out, not installed: $tool" >&2; fi
done

# Where the figures go: NAME|TOOL|VALUE.
rows=${KEPT:-$work/rows}
row() { echo "$1|$2|$3" >> "$rows"; }
# clock NAME TOOL COMMAND...: runs it, and keeps the seconds and the peak memory of backups and restores.
clock() {
  local name=$1 tool=$2 seconds kilobytes; shift 2
  /usr/bin/time -q -f "%e %M" -o "$work/clock" bash -euo pipefail -c '"$@"' - "$@"
  read -r seconds kilobytes < "$work/clock"
  row "$name, s" "$tool" "$seconds"
  case $name in
    *backup*) row "peak memory of backups, MB" "$tool" $((kilobytes / 1000)) ;;
    restore*) row "peak memory of restores, MB" "$tool" $((kilobytes / 1000)) ;;
  esac
}
# What the repository takes, in 100,000 bytes.
taken() { du -s --block-size=100kB "$repo" | cut -f1; }
megabytes() { row "$1, MB" "$2" "$(($3 / 10)).$(($3 % 10))"; }
size() { megabytes "$1" "$2" "$(taken)"; }
# An unprivileged reader's way to read a source once, so that nobody pays for a cold cache.
warm() { tar -cf - "$1" 2> /dev/null | cat > /dev/null; }
end_mount() { for _ in $(seq 100); do umount "$work/mnt" 2> /dev/null && return; sleep 0.1; done; umount -l "$work/mnt"; }

# What a tool calls the work runs in a shell of its own, under time(1).
for tool in "${tools[@]}"; do for what in backup restore; do export -f "${tool}_$what"; done; done
export repo work

fresh() {
  repo=$disk/repo-$1
  new_disk "$disk" "${DISK_GIB:-8}"
  "$1_init"
}

trees() {
  local tool=$1
  # Both states are backed up under one path, as a source that changes is.
  fresh "$tool"
  cp -a "$data/v1" "$disk/src"; warm "$disk/src"; sync
  clock "first backup" "$tool" "${tool}_backup" "$disk/src"
  size "repository, first backup" "$tool"
  for _ in 1 2 3; do clock "unchanged backup" "$tool" "${tool}_backup" "$disk/src"; done
  rsync -a --delete "$data/v2/" "$disk/src/"; warm "$disk/src"; sync
  clock "changed backup" "$tool" "${tool}_backup" "$disk/src"
  size "repository, and changed" "$tool"
  sync
  new_disk "$out" "${DISK_GIB:-8}"
  clock "restore" "$tool" "${tool}_restore" "$out" "$disk/src"
  if [ "$run" -le "$copies" ] && declare -F "${tool}_mount" > /dev/null; then
    new_disk "$out" "${DISK_GIB:-8}"
    "${tool}_mount" "$disk/src"
    clock "cp -a out of the mount" "$tool" cp -a "$shown" "$out/copy"
    end_mount
  fi
}

images() {
  local tool=$1 v1=$2 v2=$3
  fresh "$tool"
  mkdir "$disk/vm"; cp --sparse=always "$v1" "$disk/vm/disk.raw"; warm "$disk/vm"; sync
  clock "first backup of the image" "$tool" "${tool}_backup" "$disk/vm"
  size "repository, image" "$tool"
  new_disk "$out" "${DISK_GIB:-8}"
  clock "restore of the image" "$tool" "${tool}_restore" "$out" "$disk/vm"
  cmp "$(find "$out" -name disk.raw)" "$v1"
  new_disk "$out" "${DISK_GIB:-8}"
  cp --sparse=always "$v2" "$disk/vm/disk.raw"; warm "$disk/vm"; sync
  clock "changed backup of the image" "$tool" "${tool}_backup" "$disk/vm"
  size "repository, image and changed" "$tool"
}

big() {
  local tool=$1 dir=$2
  fresh "$tool"
  # As above: what was written and removed before is not this tool's time.
  warm "$dir"; sync
  clock "first backup of large files" "$tool" "${tool}_backup" "$dir"
  size "repository, large files" "$tool"
}

# What grows and by how much, when one repository takes everything in turn.
one() {
  local tool=$1 before=0 now what; shift
  fresh "$tool"
  for what in "$@"; do
    "${tool}_backup" "$what"
    now=$(taken)
    megabytes "one repository, + $(basename "$what")" "$tool" $((now - before))
    before=$now
  done
  size "one repository, sum" "$tool"
}

if [ -n "${ONE:-}" ]; then
  [ "$data" = none ] && all=() || all=("$data/v1" "$data/v2")
  all+=(${IMAGES:-} ${BIG:-})
  for tool in "${tools[@]}"; do one "$tool" "${all[@]}"; done
  runs=0
fi

for run in $(seq "$runs"); do
  for tool in "${tools[@]}"; do
    [ "$data" = none ] || trees "$tool"
    [ -z "${IMAGES:-}" ] || images "$tool" $IMAGES
    [ -z "${BIG:-}" ] || big "$tool" "$BIG"
  done
done

python3 - "$rows" "${tools[@]}" <<'PY'
import collections, statistics, sys
tools = sys.argv[2:]
rows, runs = collections.defaultdict(lambda: collections.defaultdict(list)), 0
for line in open(sys.argv[1]):
    name, tool, value = line.rstrip("\n").split("|")
    rows[name][tool].append(float(value))
runs = [len(rows[name]["relict"]) for name in rows if "first" in name or "one" in name]
print(f"medians of {min(runs)} runs (memory: the highest); in brackets relict's share of the peer's figure\n")
print("| work | " + " | ".join(tools) + " |")
print("|---" * (len(tools) + 1) + "|")
for name, of in rows.items():
    middle = max if "peak" in name else statistics.median
    mine = middle(of["relict"]) if of["relict"] else None
    cells = []
    for tool in tools:
        if not of[tool]: cells.append("-"); continue
        value = middle(of[tool])
        cells.append(f"{value:.2f}" if tool == "relict" or not mine else f"{value:.2f} ({mine / value:.2f})")
    print(f"| {name} | " + " | ".join(cells) + " |")
PY
