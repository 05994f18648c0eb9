#!/usr/bin/env bash
# libFuzzer over the decoders: run.sh [SECONDS [TARGET...]], each target for SECONDS (60). Needs nightly Rust, for the
# instrumentation and the address sanitizer, and a C++ compiler; no cargo-fuzz. What is found lies in fuzz/artifacts: mend it,
# and copy it to fuzz/corpus, which an ordinary test runs (tests/fuzz_corpus.rs).
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
[ $# -gt 0 ] && targets=("$@") || mapfile -t targets < <(ls corpus)
rustup toolchain list 2>/dev/null | grep -q ^nightly || { echo "this needs nightly Rust: rustup toolchain install nightly" >&2; exit 1; }
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-${CARGO_TARGET_DIR:-../target}/fuzz}
level=-Cllvm-args=-sanitizer-coverage
# As cargo-fuzz has it. With --target build scripts are built without.
RUSTFLAGS="-Cpasses=sancov-module $level-level=4 $level-inline-8bit-counters $level-pc-table $level-trace-compares \
  --cfg fuzzing -Zsanitizer=address -Cdebug-assertions -Coverflow-checks" \
  cargo +nightly build --release --target "$host" "${targets[@]/#/--bin=}"
mkdir -p artifacts
for target in "${targets[@]}"; do
  # What it thinks of goes to a place that is thrown away; the seeds stay as they are.
  found=$(mktemp -d)
  "$CARGO_TARGET_DIR/$host/release/$target" "$found" "corpus/$target" -artifact_prefix="artifacts/$target-" \
    -max_total_time="$seconds" -max_len=65536 -rss_limit_mb=512 -timeout=10 -print_final_stats=1 2>&1 |
    grep -E '^(INFO: Running|stat::|==|SUMMARY|artifact|.*panicked|.*Test unit|#.*DONE)' | sed "s/^/$target: /"
  rm -rf "$found"
done
