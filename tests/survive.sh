#!/usr/bin/env bash
# Every fault of tests/survive, and the table: how often each was caused, and what must be zero.
# RELICT_SEED repeats a run. Takes hours on two cores; `make test` runs a sample.
set -euo pipefail
table=$(mktemp)
trap 'rm -f "$table"' EXIT
seed=${RELICT_SEED:-$(date +%s)}
status=0
RELICT_SURVIVE=1 RELICT_SURVIVE_TABLE=$table RELICT_SEED=$seed ${CARGO:-cargo} test --release -p relict --test survive -- --test-threads 1 "$@" || status=$?
echo
echo "| fault | runs | lost acknowledged points | wrong bytes served | undetected | manual steps |"
echo "|---|---|---|---|---|---|"
cat "$table"
awk -F'|' '{ for (i = 3; i <= 7; i++) sum[i] += $i } END { printf "| **all** | %d | %d | %d | %d | %d |\n", sum[3], sum[4], sum[5], sum[6], sum[7] }' "$table"
echo
echo "seed $seed, $(date -u +%F), $(git rev-parse --short HEAD 2>/dev/null || echo 'no git')"
exit "$status"
