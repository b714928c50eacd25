#!/usr/bin/env bash
# From a fresh clone to a first report, on drawings of eyes (phantom-fundus): no data, no GPU and no hub is needed.
#
#   bash scripts/quickstart.sh
#
# Stopped half-way? Start it again: it goes on. The results are in runs/quickstart*.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh ""

step() { printf '\n== %s\n   %s\n' "$1" "$2"; }
clinsynth() { .venv/bin/clinsynth "$@"; }

step "1/3 train a class-conditioned DDPM on 1,080 drawn eyes, five grades, imbalanced" "clinsynth train ddpm"
clinsynth train ddpm --config recipes/ddpm/quickstart.yaml --output_dir runs/quickstart

step "2/3 generate 60 eyes of each grade" "clinsynth generate images"
clinsynth generate images --model runs/quickstart --per_class 60 --num_inference_steps 15 \
    --output_dir runs/quickstart-synthetic

step "3/3 compare with the real drawings and train classifiers with and without the synthetic ones" "clinsynth evaluate images"
clinsynth evaluate images --real phantom-fundus --synthetic runs/quickstart-synthetic \
    --classifier_seeds 2 --classifier_epochs 6 --bootstrap 100 --output_dir runs/quickstart-evidence

printf '\nThe report: %s\n' "$PWD/runs/quickstart-evidence/report.html"
