#!/usr/bin/env bash
# Copy what a table needs of finished runs (not the checkpoints): experiments/collect.sh TARGET SWEEP [SWEEP ...]
set -euo pipefail
target=$1
shift
for sweep in "$@"; do
    for results in "$sweep"/*/results.json; do
        run=$(dirname "$results")
        name=$(python3 -c "
import json, sys
r = json.load(open(sys.argv[1]))
activation = [] if r['activation'] == 'clipped_relu' else [r['activation']]
print(*activation, r['method'], r['bound'], f\"seed{r['seed']}\", sep='_')" "$results")
        mkdir -p "$target/$name/.hydra"
        cp "$run/.hydra/config.yaml" "$run/.hydra/overrides.yaml" "$target/$name/.hydra/"
        cp "$run/results.json" "$run/metrics.csv" "$run/train.log" "$target/$name/"
    done
done
