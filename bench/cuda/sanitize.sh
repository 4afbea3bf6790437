#!/bin/sh
# Usage: bench/cuda/sanitize.sh [folder of the benches, such as .cmake/bench/bench]
# compute-sanitizer over the linears' checks on small shapes: decode, wide (wgmma), norms folded in, prefill. Needs a GPU.
# Fails where a tool finds something.
set -e
if [ "$1" = --help ]; then
  sed -n 's/^# //p' "$0"
  exit 0
fi
folder=${1:-.}
for program in cuda_linear_decode_bench cuda_linear_prefill_bench; do
  [ -x "$folder/$program" ] && continue
  echo "there is no $program in '$folder': build it with MILLRACE_BENCH=ON and name its folder (--help)" >&2
  exit 2
done
if ! command -v compute-sanitizer >/dev/null; then
  echo "compute-sanitizer is not on the PATH: it is part of the CUDA toolkit" >&2
  exit 2
fi
for tool in memcheck racecheck initcheck; do
  for program in "cuda_linear_decode_bench tiny" "cuda_linear_prefill_bench --tiny" "cuda_linear_decode_bench tiny_whole"; do
    echo "$tool $program"
    # shellcheck disable=SC2086 # a program and its options
    compute-sanitizer --tool "$tool" --error-exitcode 2 --print-limit 4 "$folder"/$program
  done
done
