#!/usr/bin/env bash
# Every fault of tests/survive, and the table: how often each was caused, and what must be zero. `make test` runs a sample.
# Arguments are names of tests (kill, errors, power, full, flips, rot, memory, matrix); none means all.
#   RELICT_SEED              repeats a run
#   RELICT_BIN               directory with copies of the programs, so that the run is not disturbed by who builds
#   RELICT_SURVIVE_BUDGET    seconds that a row may take at most; a row has the number of what was really run
#   RELICT_SURVIVE_ROUNDS    scenes of each operation that are killed at every step (4)
#   RELICT_SURVIVE_REPLAYS   lost powers of each operation (1000); disks that come out equal are judged once
#   RELICT_SURVIVE_DISKS     full disks of each operation (100)
#   RELICT_SURVIVE_FLIPS     bits flipped under whole programs, beside the other damage (5000)
#   RELICT_SURVIVE_CHUNKS    chunks of the repository that 512 MiB of memory must be enough for (10000000)
#   RELICT_SURVIVE_KEEP      directory for the disks after a lost power that were not as they must be
#   RELICT_SURVIVE_TABLE     file to which rows are added, so that a run can be made in pieces
# In full it takes many hours on two cores.
set -euo pipefail
table=${RELICT_SURVIVE_TABLE:-$(mktemp)}
touch "$table"
seed=${RELICT_SEED:-$(date +%s)}
status=0
RELICT_SURVIVE=1 RELICT_SURVIVE_TABLE=$table RELICT_SEED=$seed ${CARGO:-cargo} test --release -p relict --test survive -- --test-threads 1 "$@" || status=$?
header="| fault | runs | lost acknowledged points | wrong bytes served | undetected | manual steps |
|---|---|---|---|---|---|"
sum='{ for (i = 3; i <= 7; i++) sum[$2, i] += $i; if (!($2 in rows)) order[++n] = $2; rows[$2]++ }
  END { for (k = 1; k <= n; k++) { f = order[k]; printf "|%s(%d rows) | %d | %d | %d | %d | %d |\n", f, rows[f], sum[f, 3], sum[f, 4], sum[f, 5], sum[f, 6], sum[f, 7] } }'
printf '\n%s\n' "$header"
cat "$table"
printf '\nIn sum:\n\n%s\n' "$header"
# The kind of fault is what stands before the first colon or comma.
sed -E 's/^\| ([^:,|]*)[:,][^|]*\|/| \1 |/' "$table" | awk -F'|' "$sum"
printf '\nseed %s, %s, %s\n' "$seed" "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo 'no git')"
[ -n "${RELICT_SURVIVE_TABLE:-}" ] || rm -f "$table"
exit "$status"
