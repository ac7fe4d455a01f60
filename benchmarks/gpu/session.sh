#!/usr/bin/env bash
# What only a GPU can show, the most valuable first, each within a time of its own, so that a GPU lent for a quarter of
# an hour is used well. What a step prints goes to a log, and one step that fails does not keep the next from running.
#
#   benchmarks/gpu/session.sh LOGS [PYTHON]
#
# The results of the benchmarks are appended to benchmarks/results, and copied to LOGS.
set -u
logs=$1 python=${2:-python}
mkdir -p "$logs"
cd "$(dirname "$0")/../.." || exit 1
export PYTHONPATH=. PYTHONUNBUFFERED=1
if [ ! -e difflayers/cuda_ext ]; then # a copy that is not installed finds its kernels there
    ln -s ../cuda_ext difflayers/cuda_ext
    trap 'rm -f difflayers/cuda_ext' EXIT
fi

step() { # SECONDS NAME COMMAND...
    local seconds=$1 name=$2
    shift 2
    echo "$name: $*"
    timeout "$seconds" "$@" >"$logs/$name.log" 2>&1
    echo "$name: exit status $?, $(tail -n 1 "$logs/$name.log")"
    cp -r benchmarks/results "$logs/" 2>/dev/null
}

"$python" -m pip list >"$logs/packages.log" 2>&1
nvidia-smi >"$logs/nvidia-smi.log" 2>&1
step 150 tests "$python" -m pytest -m gpu -n 10 -p no:benchmark -q
step 60 matching "$python" -m benchmarks gpu-matching
step 60 exact "$python" -m benchmarks gpu-exact
step 60 step "$python" -m benchmarks gpu-satnet-step
for seed in 0 1 2; do
    step 90 "train-$seed" "$python" -m demos.sudoku train --device cuda --seed "$seed" --output "$logs/train-$seed"
done
step 60 search "$python" -m benchmarks gpu-search
step 60 parts "$python" -m benchmarks gpu-satnet-parts
step 120 train-16x16 "$python" -m demos.sudoku train --box 4 --device cuda --train 2000 --batch-size 40 --epochs 4 \
    --output "$logs/train-16x16"
step 90 initcheck compute-sanitizer --tool initcheck "$python" -m pytest tests/gpu/test_gpu.py -m gpu -x -q -k "float32"
step 60 growth "$python" -m benchmarks gpu-satnet-growth
