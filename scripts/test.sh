#!/usr/bin/env bash
# Everything that must hold: style, types of the installed package, all tests.
#
#   bash scripts/test.sh              all
#   bash scripts/test.sh -k pipeline  arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
# of 25,000 files that are installed, a quarter is ever imported: their bytecode is written then, and kept
unset PYTHONDONTWRITEBYTECODE
source scripts/environment.sh "[c2pa,cluster,dev,dicom,large,llamacpp,nifti,pack,privacy,space,text]" --no-compile

# a back end of constrained decoding, without what it pulls in for GPUs
.venv/bin/python -m pip install --quiet --no-deps --no-compile xgrammar==0.2.8 apache-tvm-ffi==0.1.15.post2

.venv/bin/ruff check .
.venv/bin/ruff format --check .
# beside the tests, which do not use two cores all the time; from .venv, so that it reads the installed package and not
# the folder of the same name
(cd .venv && bin/mypy --config-file ../pyproject.toml) &
mypy=$! status=0
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@" || status=$?
wait $mypy || status=$?
exit $status
