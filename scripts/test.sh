#!/usr/bin/env bash
# Everything that must hold: style, types of the installed package, all tests.
#
#   bash scripts/test.sh              all
#   bash scripts/test.sh -k pipeline  arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh "[c2pa,cluster,dev,dicom,llamacpp,nifti,pack,privacy,space,text]"

# a back end of constrained decoding, without what it pulls in for GPUs
.venv/bin/python -m pip install --quiet --no-deps xgrammar==0.2.8 apache-tvm-ffi==0.1.15.post2

.venv/bin/ruff check .
.venv/bin/ruff format --check .
# from .venv, so that it reads the installed package and not the folder of the same name
(cd .venv && bin/mypy --config-file ../pyproject.toml)
# hundreds of processes import clinsynth: its bytecode is kept, whatever is set
unset PYTHONDONTWRITEBYTECODE
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
