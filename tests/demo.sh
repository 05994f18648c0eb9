#!/usr/bin/env bash
# `make demo`: relict at work on real data, with the commands a user types, and proof that nothing was lost.
# Usage: demo.sh BINARIES.  RELICT_DEMO_DATA names the tree to take (default /usr/share and /usr/lib).
set -euo pipefail

bin=$(cd "$1" && pwd)
export PATH="$bin:$PATH"
[ "$(id -u)" = 0 ] || { echo "the demo compares owners, devices and trusted attributes: run it as root" >&2; exit 1; }
[ -e /dev/fuse ] || modprobe fuse 2>/dev/null || { echo "the demo mounts restore points and needs /dev/fuse" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/relict-demo.XXXXXX")
cleanup() {
  umount -q "$work/mnt" 2>/dev/null || umount -q -l "$work/mnt" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
mkdir "$work/data" "$work/mnt"
export RELICT_REPOSITORY="$work/repo" RELICT_PASSWORD=demo

table=()
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }
# What the source holds now, for the table.
measure() {
  files=$(find "$work/data" -type f | wc -l)
  bytes=$(du -s --apparent-size --block-size=1M "$work/data" | cut -f1)
}
# step NAME COMMAND...: shows the command, runs it, and keeps a row for the table.
step() {
  local name=$1 begun ended; shift
  [ "$1" = same ] || say "$*"
  begun=$(date +%s.%N)
  "$@"
  ended=$(date +%s.%N)
  local stored=0
  [ -d "$work/repo" ] && stored=$(du -s --block-size=1M "$work/repo" | cut -f1)
  table+=("$(printf '%-28s %9s %10s %12s %9s' "$name" "$files" "$bytes" "$stored" "$(awk "BEGIN { printf \"%.2f\", $ended - $begun }")")")
}
# same A B: silence from rsync and from find means the same tree in content and in every attribute.
same() {
  local out
  local compare=(rsync -aHAXSn --checksum --delete --modify-window=-1 --itemize-changes "$1/" "$2/")
  say "${compare[*]}"
  out=$("${compare[@]}")
  [ -z "$out" ] || { echo "these trees differ:"; sed -n 1,20p <<<"$out"; exit 1; }
  diff <(cd "$1" && find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | grep -v ' d ' | sort) \
       <(cd "$2" && find . -printf '%p %y %m %U %G %s %T@ %n %l\n' | grep -v ' d ' | sort) > "$work/differences" ||
    { echo "these trees differ:"; sed -n 1,20p "$work/differences"; exit 1; }
  echo "$1 and $2 are the same: content, owners, modes, times, links, attributes"
}

# take TREE: a copy, which can be changed, under the same path below $work/data.
take() {
  [ -d "$1" ] || return 0
  echo "copying real data: $1"
  mkdir -p "$work/data$(dirname "$1")"
  cp -a --reflink=auto "$1" "$work/data$(dirname "$1")/"
}
for tree in ${RELICT_DEMO_DATA:-/usr/share /usr/lib}; do take "$tree"; done
measure
if [ "$files" -lt 20000 ] && [ -z "${RELICT_DEMO_DATA:-}" ]; then
  # A small system; whoever has built relict has these as well.
  for tree in /usr/include "${CARGO_HOME:-$HOME/.cargo}/registry/src" "${RUSTUP_HOME:-$HOME/.rustup}/toolchains"; do take "$tree"; done
  measure
fi

step "init" relict init
step "first backup" relict backup "$work/data"
step "backup, nothing changed" relict backup "$work/data"

say "# a night's changes: edits, deletions, a rename, a hole, a hard link, an attribute, an ACL"
cd "$work/data"
find . -type f -name '*.txt' | sort > "$work/list"
awk 'NR <= 200' "$work/list" | while read -r f; do echo changed >> "$f"; done
find . -type f | sort > "$work/list"
awk 'NR % 101 == 0 && n++ < 300' "$work/list" | tr '\n' '\0' | xargs -0 rm -f
find . -mindepth 2 -maxdepth 3 -type d | sort > "$work/list"
first=$(sed -n 1p "$work/list")
mv "$first" "$first.renamed"
truncate -s 100M sparse && echo end >> sparse
find . -type f -size +4k -size -1000k ! -name sparse | sort > "$work/list"
some=$(sed -n 1p "$work/list")
ln "$some" hard-link
setfattr -n user.colour -v blue "$some"
setfacl -m u:daemon:r "$some"
mkfifo pipe && mknod device c 1 3
cd - >/dev/null
measure
step "backup of the changes" relict backup "$work/data"
step "list" relict snapshots

step "mount" relict mount "$work/mnt"
ls "$work/mnt" "$work/mnt/snapshots"
step "cp -a out of the mount" cp -a "$work/mnt/latest$work/data" "$work/copied"
step "compare the mount" same "$work/data" "$work/mnt/latest$work/data"
step "compare the copy" same "$work/data" "$work/copied"
rm -rf "$work/copied"
step "umount" relict umount "$work/mnt"

step "restore" relict restore "latest:$work/data" -t "$work/restored"
step "compare the restored tree" same "$work/data" "$work/restored"
step "check, reading all data" relict-maint check --read-data

printf '\nthree restore points of real data\n\n'
printf '%-28s %9s %10s %12s %9s\n' step files "data, MB" "stored, MB" seconds
printf '%s\n' "${table[@]}"
