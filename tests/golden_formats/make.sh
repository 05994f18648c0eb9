#!/usr/bin/env bash
# Made the repositories beside it, with the programs in the directory that is named: make.sh PROGRAMS VERSION [NAME...].
# A golden repository is never made again: a later format gets folders of its own (VERSION is the format's number), and the
# old ones stay, so that what was written once is read for ever. Password of the encrypted one: "golden".
set -euo pipefail
programs=$1 version=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export RELICT_PASSWORD=golden TZ=UTC PATH=$programs:$PATH

# A small tree of everything, as of one of three days.
source_of() {
  rm -rf "$work/source" && mkdir -p "$work/source/dir/deep" && cd "$work/source"
  echo "hello $1" >hello
  seq 1 "$((150 * $1))" >dir/numbers
  ln hello dir/second-name
  ln -s ../hello dir/link
  mkfifo dir/pipe
  truncate -s 1M holes && printf 'data %s' "$1" | dd of=holes bs=1 seek=500000 conv=notrunc status=none
  printf 'name that is no text\n' >"$(printf 'dir/\377\001name')"
  setfattr -n user.colour -v "blue $1" hello
  chmod 4755 hello
  head -c 1500 /dev/zero | openssl enc -aes-128-ctr -K "0$1" -iv 00 2>/dev/null >dir/deep/random
  [ "$1" = 1 ] && echo "gone later" >dir/gone
  find . -exec touch -h -d "2026-11-2$1T10:00:00.123456789Z" {} +
}
backup() { source_of "$1" && (cd "$work/source" && relict -q backup --host golden --source tree "$work/source"); }
maint() { relict-maint -q "$@"; }

fill() {
  case $1 in
  plain) relict -q init --insecure-no-password && backup 1 && backup 2 ;;
  encrypted) relict -q init && backup 1 && backup 2 ;;
  rocksdb) relict -q init --insecure-no-password --store rocksdb && backup 1 && backup 2 ;;
  streams)
    relict -q init --insecure-no-password
    python3 - "$work" <<'PY'
import struct, sys, json
def diff(path, base, to, size, writes, zeros=()):
    out = b"rbd diff v1\n"
    if base: out += b"f" + struct.pack("<I", len(base)) + base
    out += b"t" + struct.pack("<I", len(to)) + to + b"s" + struct.pack("<Q", size)
    for at, data in writes: out += b"w" + struct.pack("<QQ", at, len(data)) + data
    for at, n in zeros: out += b"z" + struct.pack("<QQ", at, n)
    open(path, "wb").write(out + b"e")
w = sys.argv[1]
diff(w + "/full", b"", b"one", 1 << 20, [(0, b"boot" * 1024), (500000, b"middle" * 3000)])
diff(w + "/next", b"one", b"two", 1 << 20, [(8192, b"new" * 2000)], [(500000, 4096)])
disk = bytearray(300000); disk[1000:9000] = b"diskdata" * 1000
open(w + "/disk", "wb").write(disk)
disk[200000:204000] = b"more" * 1000
open(w + "/disk2", "wb").write(disk)
ranges = [{"offset": 196608, "length": 12288}]
json.dump({"format": "relict-extents-1", "base": "mon", "size": 300000, "changed": ranges}, open(w + "/list", "w"))
PY
    relict -q ingest rbd --source ceph:pool/vm "$work/full"
    relict -q ingest rbd --source ceph:pool/vm "$work/next"
    relict -q ingest image "$work/disk" --source kvm:vm/sda --state mon --time 2026-11-21T10:00:00Z
    relict -q ingest image "$work/disk2" --source kvm:vm/sda --state tue --extents "$work/list" --time 2026-11-22T10:00:00Z
    ;;
  thinned)
    relict -q init --insecure-no-password && backup 1 && backup 2 && backup 3 && backup 1
    maint protect latest --yes
    maint forget latest~2 --yes
    maint prune --yes
    maint forget latest~1 --yes
    ;;
  interrupted-prune)
    relict -q init --insecure-no-password && backup 1 && backup 2 && backup 3
    maint forget latest~1 latest~2 --yes
    # In the middle of it: see RELICT_DIE_AT in src/store/free.rs.
    ! RELICT_STEPS=$work/steps RELICT_DIE_AT=3 maint prune --yes 2>/dev/null
    ;;
  *) echo "no such golden repository: $1" >&2 && exit 1 ;;
  esac
}

[ $# -gt 0 ] || set -- plain encrypted rocksdb streams thinned interrupted-prune
for name in "$@"; do
  target=$here/repositories/$version-$name
  [ ! -e "$target" ] || { echo "$target is there already, and stays" >&2; exit 1; }
  export RELICT_REPOSITORY=$work/repo
  rm -rf "$RELICT_REPOSITORY" && fill "$name"
  # Room for maintenance, the database's words to people, and options that every program sets by itself.
  rm -rf "$RELICT_REPOSITORY"/{reserve,lock,pins} "$RELICT_REPOSITORY"/db/{LOG*,OPTIONS*,LOCK}
  mkdir -p "$target" && cp -r "$RELICT_REPOSITORY" "$target/repository"
  # What it must show: listed by a copy, since looking at it may change it.
  relict snapshots --json | python3 -c '
import json, sys
for line in sys.stdin:
    point = json.loads(line)
    print(point["id"], (point["paths"] or [""])[0] if point["kind"] == "dir" else "")' >"$target/points"
  while read -r id path; do
    rm -rf "$work/out" && relict -q restore "$id:$path" -t "$work/out"
    "$here/manifest.sh" "$work/out" >"$target/$id.manifest"
  done <"$target/points"
  echo "$name: $(du -sh "$target" | cut -f 1)"
done
