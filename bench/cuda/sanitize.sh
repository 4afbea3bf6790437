#!/bin/bash
# Usage: bench/cuda/sanitize.sh [folder of the benches, such as .cmake/bench/bench] [seconds]
# compute-sanitizer over the linears' checks on small shapes: decode, wide (wgmma), norms folded in, prefill. Needs a GPU.
# `seconds` bounds each run (default: none does), and one that is cut off says so and counts for nothing. All of them run;
# the status is 1 where a tool found something or nothing came to its end.
set -u
if [ "${1:-}" = --help ]; then
  sed -n 's/^# //p' "$0"
  exit 0
fi
folder=${1:-.}
seconds=${2:-0} # of timeout: 0 is no limit
clean=0 found=0 cut=0
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
    begin=$SECONDS
    # shellcheck disable=SC2086 # a program and its options
    timeout "$seconds" compute-sanitizer --tool "$tool" --error-exitcode 2 --print-limit 4 "$folder"/$program
    status=$?
    case $status in
      0) verdict=clean clean=$((clean + 1)) ;;
      124) verdict="cut off" cut=$((cut + 1)) ;;
      *) verdict="FAILED ($status)" found=$((found + 1)) ;;
    esac
    echo "$tool $program: $verdict, $((SECONDS - begin)) s"
  done
done
echo "$clean clean, $found failed, $cut cut off"
[ "$found" = 0 ] && [ "$clean" -gt 0 ]
