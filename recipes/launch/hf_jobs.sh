#!/usr/bin/env bash
# Any command of clinsynth on the Hub's machines (Jobs), with a bucket of yours as its folder /runs.
#
#   bash recipes/launch/hf_jobs.sh train ddpm --dataset me/retina --output_dir /runs/retina
#   FLAVOR=a100x4 bash recipes/launch/hf_jobs.sh generate images --model me/retina-ddpm --per_class 50000 --output_dir /runs/set
#   FLAVOR=a10g-large TIMEOUT=12h bash recipes/launch/hf_jobs.sh study recipes/retina_gpu.yaml --output_dir /runs/study
#   DRY_RUN=1 bash recipes/launch/hf_jobs.sh train ddpm --dry_run      # shows the job, starts nothing
#
# BUCKET     owner/name of the bucket, made before by: hf buckets create NAME --private
# FLAVOR     the machine, a name of `hf jobs hardware`; default a10g-small
# TIMEOUT    the longest that one attempt may take; default 6h
# IMAGE      a container with torch for its GPU
# CLINSYNTH  what pip installs there
#
# A recipe of your own must lie where the job sees it: in the bucket, as /runs/my.yaml. The token goes there as a secret,
# read from your environment or login, and is in no command line. An attempt that fails or is stopped is repeated, and
# the same command goes on where it was; start it again after that for more.
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "error: name a command of clinsynth, as: bash recipes/launch/hf_jobs.sh train ddpm --output_dir /runs/retina" >&2
    exit 2
fi
if [ -z "${BUCKET:-}" ]; then
    echo "error: BUCKET is not set: what the job makes would be lost; hf buckets create NAME --private, BUCKET=owner/NAME" >&2
    exit 2
fi

inside='set -euo pipefail
pip install --quiet "$0"
gpus="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
if [ "$gpus" -gt 1 ] && [ "$1" != study ]; then
    exec accelerate launch --multi_gpu --num_machines 1 --num_processes "$gpus" -m clinsynth "$@"
fi
exec clinsynth "$@"'

exec hf jobs run --detach ${DRY_RUN:+--dry-run} \
    --name "clinsynth-$1" \
    --flavor "${FLAVOR:-a10g-small}" \
    --timeout "${TIMEOUT:-6h}" \
    --attempts 3 \
    --secrets HF_TOKEN \
    --volume "hf://buckets/$BUCKET:/runs:rw" \
    "${IMAGE:-pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime}" \
    bash -c "$inside" "${CLINSYNTH:-clinsynth[text]}" "$@"
