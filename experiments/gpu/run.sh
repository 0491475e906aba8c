#!/usr/bin/env bash
# What a GPU says of lipcert in twelve minutes: tests, costs of a step, a published recipe shortened, 1,000 certificates.
#
#     experiments/gpu/run.sh              # from the repository, in an environment with lipcert and its extra dev
#     DATA=FOLDER experiments/gpu/run.sh  # with CIFAR-10's files; without, crops of photographs stand in
#
# Each part ends in a log of its own in experiments/gpu_NAME, NAME that of the device; a part whose log is there is not
# done again. The last part writes the page of that folder: commit it. DEVICE, ROUNDS, EPOCHS, TRAIN and IMAGES make it smaller.
set -euo pipefail
cd "$(dirname "$0")/../.."

device=${DEVICE:-cuda}
name=$(python -c "import torch; print(torch.cuda.get_device_name() if '$device' == 'cuda' else '$device')")
folder=experiments/gpu_$(tr -cs '[:alnum:]\n' '-' <<<"${name,,}")
run=${RUN:-$folder/run}
mkdir -p "$folder"

part() { # part NAME SECONDS COMMAND...: its output becomes NAME.log once it has succeeded
    local log=$folder/$1.log seconds=$2
    shift 2
    [ ! -e "$log" ] || { echo "$log is there"; return; }
    echo "\$ $*" | tee "$log.part"
    local status=0
    timeout "$seconds" "$@" >>"$log.part" 2>&1 || status=$?
    if [ "$status" = 0 ]; then mv "$log.part" "$log"; else echo "failed with $status: $log.part" >&2; fi
}

benchmark() { # benchmark MODEL BATCH SHAPE CLASSES
    part "$1" 120 python -m lipcert.benchmark "models=[$1]" "batch_size=$2" "image_shape=$3" "num_classes=$4" \
        "device=$device" "rounds=${ROUNDS:-20}" "output=$folder/$1.json"
}

[ "$device" != cuda ] || part tests 180 python -m pytest -m gpu -n 0 tests/gpu
benchmark 4c3f "${IMAGES:-256}" "[1,28,28]" 10
benchmark 6c2f "${IMAGES:-256}" "[3,32,32]" 10
benchmark 8c2f "${IMAGES:-128}" "[3,64,64]" 200

data=(data=photos)
[ -z "${DATA:-}" ] || data=(data=cifar10 "data.root=$DATA")
part train 240 python -m lipcert.train experiment=cifar10_6c2f "${data[@]}" "schedule.epochs=${EPOCHS:-8}" \
    "schedule.ramp_epochs=$((${EPOCHS:-8} / 2))" "schedule.decay_epoch=$((${EPOCHS:-8} / 2))" \
    "data.limit_train=${TRAIN:-null}" "data.limit_test=${IMAGES:-1000}" "trainer.accelerator=${device/cuda/gpu}" evaluation.pgd_steps=20 \
    callbacks=quiet resume=auto "hydra.run.dir=$run"
part certify 120 python -m lipcert.certify "checkpoint=$run/checkpoints/last.ckpt" ${DATA:+"data_root=$DATA"} \
    "limit=${IMAGES:-1000}" "device=$device" "output=$folder/certificates"

cat >"$folder/README.md" <<PAGE
# lipcert on ${name}

Written by \`experiments/gpu/run.sh\` at commit $(git rev-parse --short HEAD). Each part's command stands in the first line of its log, and its result below it.

<!-- table: steps 4c3f.json 6c2f.json 8c2f.json -->
<!-- end of table -->

$(for log in "$folder"/*.log; do echo "- [$(basename "$log" .log)]($(basename "$log"))"; done)
PAGE
python -m experiments.pages
