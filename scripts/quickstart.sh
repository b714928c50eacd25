#!/usr/bin/env bash
# From a fresh clone to two first reports, one on drawings of eyes (phantom-fundus) and one on made-up posts
# (phantom-posts): no data, no GPU and no hub is needed.
#
#   bash scripts/quickstart.sh
#
# Stopped half-way? Start it again: it goes on. The results are in runs/quickstart*.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh "[text]"

step() { printf '\n== %s\n   %s\n' "$1" "$2"; }
clinsynth() { .venv/bin/clinsynth "$@"; }

step "1/5 train a class-conditioned DDPM on 1,080 drawn eyes, five grades, imbalanced" "clinsynth train ddpm"
clinsynth train ddpm --config recipes/ddpm/quickstart.yaml --output_dir runs/quickstart

step "2/5 generate 60 eyes of each grade" "clinsynth generate images"
clinsynth generate images --model runs/quickstart --per_class 60 --num_inference_steps 15 \
    --output_dir runs/quickstart-synthetic

step "3/5 compare with the real drawings and train classifiers with and without the synthetic ones" "clinsynth evaluate images"
clinsynth evaluate images --real phantom-fundus --synthetic runs/quickstart-synthetic \
    --classifier_seeds 2 --classifier_epochs 6 --bootstrap 100 --output_dir runs/quickstart-evidence

step "4/5 let a small language model write 16 posts of four severities, with made-up posts in its prompts" "clinsynth generate text"
clinsynth generate text --model "$SMOLLM2" --task severity-posts --dataset phantom-posts --k_shot 1 \
    --counts "non-depressed=8,mild=4,moderate=2,severe=2" --max_new_tokens 100 --output_dir runs/quickstart-posts

step "5/5 compare them with the made-up posts" "clinsynth evaluate text"
clinsynth evaluate text --real phantom-posts --synthetic runs/quickstart-posts --encoder "$MINILM" --bootstrap 50 \
    --output_dir runs/quickstart-posts-evidence

printf '\nThe reports:\n%s\n%s\n' "$PWD/runs/quickstart-evidence/report.html" "$PWD/runs/quickstart-posts-evidence/report.html"

printf '\nWhat the two sets are suitable for, as far as was measured:\n'
.venv/bin/python - runs/quickstart-evidence runs/quickstart-posts-evidence <<'PYTHON'
import json
import sys
from pathlib import Path

from clinsynth.metrics.verdicts import judge

for folder in sys.argv[1:]:
    evidence = json.loads((Path(folder) / "evidence.json").read_text())
    print("", evidence["data"]["synthetic"], *judge(evidence).lines(), sep="\n")
PYTHON
