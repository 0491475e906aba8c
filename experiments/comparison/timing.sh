#!/usr/bin/env bash
# Seconds an epoch and peak memory of every row of the comparison, on a machine that does nothing else: one epoch each,
# at full epsilon, one after the other in one process. A few minutes. From the top of the repository:
#     experiments/comparison/timing.sh [KEY=VALUE ...]
# Then `python experiments/table.py experiments/comparison` puts them into the table.
set -euo pipefail
${PYTHON:-python} -m lipcert.train sweep=comparison seed=0 schedule.epochs=1 schedule.ramp_epochs=0 data.limit_test=10 \
    evaluation.bounds=[] evaluation.pgd_steps=0 evaluation.autoattack_images=0 evaluation.lanczos_steps=10 \
    evaluation.lipschitz_images=1 callbacks=quiet hydra.sweep.dir=sweeps/comparison_timing "$@"
experiments/collect.sh experiments/comparison/timing sweeps/comparison_timing
