#!/usr/bin/env bash
# All tests, one profile, so that RocksDB is compiled once. nextest gives each test a time limit of its own.
set -euo pipefail
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --release --workspace --no-fail-fast
else
  cargo test --release --workspace --no-fail-fast
fi
