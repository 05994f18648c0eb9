#!/bin/sh
# Proves that repo-format needs no std: compiles it, and blake3 below it, against a sysroot that has
# only core, alloc and compiler_builtins. Uses the installed toolchain, downloads nothing.
set -eu
cd "$(dirname "$0")"
host=$(rustc -vV | sed -n 's/^host: //p')
real=$(rustc --print sysroot)/lib/rustlib/$host/lib
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sysroot/lib/rustlib/$host/lib"
for crate in core alloc compiler_builtins; do
    ln -s "$real"/lib$crate-*.r* "$work/sysroot/lib/rustlib/$host/lib/"
done
# The canary: what names std must not build here.
if echo 'extern crate std;' | rustc --sysroot "$work/sysroot" --crate-type lib --emit metadata -o "$work/canary" - 2>/dev/null; then
    echo "the sysroot without std has std: this proves nothing" >&2
    exit 1
fi
# With --target, RUSTFLAGS reach only what is built for the target, not build scripts.
RUSTFLAGS="--sysroot $work/sysroot" CARGO_TARGET_DIR="$work/target" \
    cargo check --quiet --locked --offline --target "$host" -p repo-format --lib
echo "repo-format builds without std"
