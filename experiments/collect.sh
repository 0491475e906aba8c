#!/usr/bin/env bash
# Copy what a table needs of finished runs (not the checkpoints): experiments/collect.sh TARGET SWEEP [SWEEP ...]
# A run of experiment=FOLDER/ROW becomes TARGET/ROW_seedN; any other is named after its network (where a sweep has
# several), activation, method, bound, sparsity and seed.
set -euo pipefail
target=$1
shift
for sweep in "$@"; do
    for results in "$sweep"/*/results.json; do
        run=$(dirname "$results")
        name=$(python3 -c "
import glob, json, re, sys
r = json.load(open(sys.argv[1] + '/results.json'))
typed = open(sys.argv[1] + '/.hydra/overrides.yaml').read()
row = re.search(r'^- experiment=.*/(.*)$', typed, re.MULTILINE)
weight = re.search(r'^- sparsity.weight=(.*)$', typed, re.MULTILINE)
several = {json.load(open(each))['model'] for each in glob.glob(sys.argv[1] + '/../*/results.json')}
model = [r['model']] if len(several) > 1 else []
activation = [] if r['activation'] == 'clipped_relu' else [r['activation']]
sparsity = [f'sparsity{weight[1]}'] if weight else []
words = [row[1]] if row else [*model, *activation, r['method'], r['bound'], *sparsity]
print(*words, f\"seed{r['seed']}\", sep='_')" "$run")
        mkdir -p "$target/$name/.hydra"
        cp "$run/.hydra/config.yaml" "$run/.hydra/overrides.yaml" "$target/$name/.hydra/"
        cp "$run/results.json" "$run/metrics.csv" "$run/train.log" "$target/$name/"
        for record in afterwards backward; do
            if [ -d "$run/$record" ]; then
                mkdir -p "$target/$name/$record"
                cp "$run/$record/certificate.json" "$target/$name/$record/"
            fi
        done
    done
done
