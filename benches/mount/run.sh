#!/usr/bin/env bash
# The same questions to mounts of the same tree: relict and the file systems it answers to, in one run.
#
#   benches/mount/run.sh [SRC [IMAGE]]   SRC: a directory; IMAGE: a large file (default: /usr/share, and 1 GB of its own)
#   FS="relict restic borg squashfuse squashfs erofs"   what to compare; what is not there is left out and named
#   COPY_TO=DIR                           where `cp -a` and `relict restore` write, each to a new ext4 in a file (default: TMPDIR)
#   DISK_GIB=8                            what that holds
#   SECONDS_RANDOM=8                      how long 4 KiB are read at random
#   KEEP=DIR                              repositories and images stay there and serve the next run
#
# Every row gets a mount of its own, and what the packages and images have in the page cache is dropped before it (only
# theirs: others work on this machine, too). Times are wall seconds. Needs root, for kernel mounts and loop devices.
set -euo pipefail

bin=${RELICT_BIN:-$(cd "$(dirname "$0")/../.." && pwd)/target/release}
export PATH="$bin:$PATH"
work=$(mktemp -d "${TMPDIR:-/tmp}/relict-mounts.XXXXXX")
. "$(dirname "$0")/../disk.sh"
trap 'umount -q -l "$work/mnt" 2>/dev/null || true; end_disk "${out:?}"; rm -rf "$work" "$out" "$out.ext4"' EXIT
keep=${KEEP:-$work/keep}
out=$(mktemp -d "${COPY_TO:-${TMPDIR:-/tmp}}/relict-mounts-out.XXXXXX")
mkdir -p "$work/mnt" "$keep"
mnt=$work/mnt

src=$(realpath "${1:-/usr/share}")
image=${2:-}
if [ -z "$image" ]; then
  image=$keep/big
  # Half of it a hole, as in the image of a disk.
  [ -s "$image" ] || { tar -cf - /usr/lib /usr/share 2> /dev/null | head -c 500M > "$image" || true; truncate -s 1G "$image"; }
fi
image=$(realpath "$image")

export RELICT_PASSWORD=bench RESTIC_PASSWORD=bench BORG_PASSPHRASE=bench
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
export XDG_CACHE_HOME="$keep/cache" BORG_BASE_DIR="$keep/borg-base"

has() { command -v "$1" > /dev/null; }
in_kernel() { grep -qw "$1" /proc/filesystems || modprobe -q "$1" 2> /dev/null; }

# For each: NAME_there, NAME_make (repository or image in $keep/NAME), NAME_mount (sets tree, file, server).
relict_there() { has relict; }
relict_make() {
  relict -q -r "$keep/relict" init
  relict -q -r "$keep/relict" backup --host bench --source src "$src"
  relict -q -r "$keep/relict" backup --host bench --source image "$image"
}
relict_mount() {
  relict -q -r "$keep/relict" mount "$mnt"
  tree=$mnt/hosts/bench/src/latest$src file=$mnt/hosts/bench/image/latest$image
}
restic_there() { has restic; }
restic_make() {
  restic -q -r "$keep/restic" init
  restic -q -r "$keep/restic" backup --host bench "$src" "$image"
}
restic_mount() {
  restic -q -r "$keep/restic" mount "$mnt" > /dev/null 2>&1 &
  wait_for "$mnt/snapshots/latest"
  tree=$mnt/snapshots/latest$src file=$mnt/snapshots/latest$image
}
borg_there() {
  local python
  has borg || return 1
  python=$(sed -n '1s/^#!//p' "$(command -v borg)")
  $python -c 'import llfuse' 2> /dev/null || $python -c 'import pyfuse3' 2> /dev/null
}
borg_make() {
  borg init -e repokey-blake2 "$keep/borg" 2> /dev/null
  borg create -C zstd,3 "$keep/borg::one" "$src" "$image" 2> /dev/null
}
borg_mount() {
  borg mount "$keep/borg::one" "$mnt" 2> /dev/null
  wait_for "$mnt$src"
  tree=$mnt$src file=$mnt$image
}
squash_make() {
  mkdir -p "$keep/squashfs"
  if [ -s "$keep/squashfs/image" ]; then return; fi
  rm -f "$keep/squashfs/image"
  mksquashfs "$src" "$image" "$keep/squashfs/image.part" -comp zstd -Xcompression-level 3 -no-progress -quiet > /dev/null
  mv "$keep/squashfs/image.part" "$keep/squashfs/image"
}
# mksquashfs and the two mounts below put both sources beside each other.
squash_paths() { tree=$mnt/$(basename "$src") file=$mnt/$(basename "$image"); }
squashfuse_there() { has squashfuse_ll && has mksquashfs; }
squashfuse_make() { squash_make; }
squashfuse_mount() { squashfuse_ll "$keep/squashfs/image" "$mnt"; squash_paths; }
squashfs_there() { in_kernel squashfs && has mksquashfs; }
squashfs_make() { squash_make; }
squashfs_mount() { mount -t squashfs -o ro,loop "$keep/squashfs/image" "$mnt"; squash_paths; }
erofs_there() { in_kernel erofs && has mkfs.erofs; }
erofs_make() {
  # One directory of links that the tool follows would not do: both sources are bound beside each other.
  mkdir -p "$keep/erofs" "$work/both/$(basename "$src")"; touch "$work/both/$(basename "$image")"
  mount --bind "$src" "$work/both/$(basename "$src")"; mount --bind "$image" "$work/both/$(basename "$image")"
  mkfs.erofs -zlz4hc "$keep/erofs/image" "$work/both" > /dev/null 2>&1 || rm -f "$keep/erofs/image"
  umount "$work/both/$(basename "$src")" "$work/both/$(basename "$image")"
  [ -s "$keep/erofs/image" ]
}
erofs_mount() { mount -t erofs -o ro,loop "$keep/erofs/image" "$mnt"; squash_paths; }

wait_for() { for _ in $(seq 600); do [ -e "$1" ] && return; sleep 0.05; done; echo "no mount: $1" >&2; return 1; }
end_mount() { for _ in $(seq 100); do umount "$mnt" 2> /dev/null && return; sleep 0.1; done; umount -l "$mnt"; }
evict() { find "$keep/$1" -type f -size +64k -exec dd if={} iflag=nocache count=0 status=none \; 2> /dev/null || true; }
# Peak memory of the process that serves the mount, in MB; nothing for the kernel's own.
peak() {
  local pid
  for pid in $(pgrep -f -- "$mnt"); do
    [ "$pid" = $$ ] || awk '/VmHWM/ { printf "%.0f\n", $2 / 1000 }' "/proc/$pid/status" 2> /dev/null
  done | sort -n | tail -1
}
row() { echo "$2|$1|$3" >> "$work/rows"; }
# clock FS NAME COMMAND...: seconds, and "failed" where it did not work.
clock() {
  local fs=$1 name=$2 begun; shift 2
  begun=$(date +%s.%N)
  if "$@" > /dev/null 2>> "$work/errors"; then row "$fs" "$name" "$(echo "$(date +%s.%N) $begun" | awk '{ printf "%.2f", $1 - $2 }')"
  else row "$fs" "$name" failed; fi
}
fresh() { evict "$store"; "${fs}_mount"; }
random() {
  fio --name=r --filename="$file" --rw=randread --bs=4k --ioengine=psync --runtime="${SECONDS_RANDOM:-8}" --time_based --readonly \
    --norandommap --randseed=7 --percentile_list=50:99 --output-format=json 2>> "$work/errors" | python3 -c '
import json, sys
read = json.load(sys.stdin)["jobs"][0]["read"]
p = read["clat_ns"]["percentile"]
print("%.0f; %.2f / %.2f" % (read["iops"], p["50.000000"] / 1e6, p["99.000000"] / 1e6))'
}
in_order() { dd if="$file" of=/dev/null bs=1M 2>&1 | tail -1 | awk -F, '{ print $(NF) }' | awk '{ printf "%.0f", $2 == "GB/s" ? $1 * 1000 : $1 }'; }

measure() {
  fs=$1; store=$fs; [ "$fs" = squashfuse ] && store=squashfs
  evict "$store"; clock "$fs" "mount ready, s" "${fs}_mount"; "end_mount"
  fresh; clock "$fs" "find, s" find "$tree"; clock "$fs" "find again, s" find "$tree"; end_mount
  fresh; clock "$fs" "ls -lR, s" ls -lR "$tree"; end_mount
  fresh; clock "$fs" "tar of all, s" bash -c 'tar -C "$1" -cf - . | cat > /dev/null' - "$tree"; end_mount
  new_disk "$out" "${DISK_GIB:-8}"
  fresh; clock "$fs" "cp -a, s" cp -a "$tree" "$out/copy"
  row "$fs" "memory after cp -a, MB" "$(peak)"; end_mount; end_disk "$out"
  if has fio; then fresh; row "$fs" "4 KiB at random: IOPS; p50 / p99 ms" "$(random)"; end_mount; fi
  fresh; row "$fs" "in order, MB/s" "$(in_order)"; row "$fs" "in order again, MB/s" "$(in_order)"
  row "$fs" "memory after reading it, MB" "$(peak)"; end_mount
}

kinds=()
for fs in ${FS-relict restic borg squashfuse squashfs erofs}; do
  if ! "${fs}_there"; then echo "left out, not there: $fs" >&2; continue; fi
  if [ ! -e "$keep/$fs" ] && ! "${fs}_make"; then echo "left out, could not be made: $fs" >&2; continue; fi
  kinds+=("$fs")
done
uptime
for fs in "${kinds[@]}"; do measure "$fs"; done
if [[ " ${kinds[*]} " == *" relict "* ]]; then
  new_disk "$out" "${DISK_GIB:-8}"
  evict relict
  point=$(relict -r "$keep/relict" snapshots --json --source src | python3 -c 'import json, sys; print(json.loads(sys.stdin.readlines()[-1])["id"])')
  clock relict "relict restore of it, s" relict -q -r "$keep/relict" restore "$point:$src" -t "$out/restored"
fi
uptime

python3 - "$work/rows" "${kinds[@]}" <<'PY'
import sys
kinds, rows = sys.argv[2:], {}
for line in open(sys.argv[1]):
    name, kind, value = line.rstrip("\n").split("|")
    rows.setdefault(name, {})[kind] = value
print("\n| work (cold mount) | " + " | ".join(kinds) + " |")
print("|---" * (len(kinds) + 1) + "|")
for name, cells in rows.items():
    print(f"| {name} | " + " | ".join(cells.get(kind) or "-" for kind in kinds) + " |")
PY
if [ -s "$work/errors" ]; then echo; echo "said meanwhile:"; sort "$work/errors" | uniq -c | sort -rn | head -5; fi
