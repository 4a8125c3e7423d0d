#!/usr/bin/env bash
# Tests and measurements on one GPU, in about 12 minutes and without a network:
#
#     benchmarks/gpu.sh [--original FOLDER]
#
# FOLDER is a checkout with the operator of Deformable-DETR, built; see benchmarks/gpu.py. Every part has its own time
# limit, and one that fails does not end the others. The exit status is 1 if one did.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
failed=0

part() { # part SECONDS COMMAND...
  local limit=$1
  shift
  echo "== $*"
  timeout "$limit" "$@" || { echo "failed: $* (status $?)"; failed=1; }
}

part 20 "$python" -m hipie doctor
part 120 "$python" -m pytest -q tests/ops/test_cuda.py
part 120 "$python" benchmarks/gpu.py operator "$@"
part 240 "$python" benchmarks/gpu.py training
part 240 "$python" benchmarks/gpu.py models
exit $failed
