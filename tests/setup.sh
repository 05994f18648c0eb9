#!/usr/bin/env bash
# What a fresh Debian lacks to build and test relict: packages, and a check of the toolchain.
set -euo pipefail

need=()
have() { command -v "$1" >/dev/null 2>&1; }
want() { have "$1" || need+=("$2"); }

want cc build-essential
want c++ build-essential
want make make
want fusermount3 fuse3
want getfattr attr
want getfacl acl
want rsync rsync
want mkfs.ext4 e2fsprogs
want mkfs.xfs xfsprogs
want mkfs.btrfs btrfs-progs
want setpriv util-linux
want prlimit util-linux
want script bsdutils
want python3 python3
want tar tar
want qemu-nbd qemu-utils
want nbdkit nbdkit
want sfdisk fdisk
want zstd zstd
want fio fio
want smbd samba
want smbclient smbclient
# Shares with Previous Versions need this one; it only comes along with samba where recommended packages are installed.
compgen -G '/usr/lib/*/samba/vfs/shadow_copy2.so' >/dev/null || need+=(samba-vfs-modules)
[ -x /usr/sbin/thin_delta ] || want thin_delta thin-provisioning-tools
python3 -c 'import venv, ensurepip' 2>/dev/null || need+=(python3-venv)
# bindgen reads RocksDB's C header through libclang; libclang-cpp, which may be there alone, is another library.
libclang() { compgen -G "/usr/lib/*/libclang$1" >/dev/null || compgen -G "/usr/lib/llvm-*/lib/libclang$1" >/dev/null; }
libclang '.so*' || libclang '-[0-9]*.so*' || need+=(libclang-dev)

if [ "${#need[@]}" -gt 0 ]; then
  mapfile -t need < <(printf '%s\n' "${need[@]}" | sort -u)
  echo "installing Debian packages: ${need[*]}"
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -q
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -q --no-install-recommends "${need[@]}"
fi

[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
have cargo || { echo "relict needs the Rust toolchain (cargo, rustc 1.95 or newer): install it with rustup, then run this again" >&2; exit 1; }
version=$(rustc --version | awk '{print $2}')
oldest=$(printf '%s\n1.95.0\n' "${version%%-*}" | sort -V | head -1)
[ "$oldest" = 1.95.0 ] || { echo "relict needs rustc 1.95 or newer, this is $version: run 'rustup update'" >&2; exit 1; }
