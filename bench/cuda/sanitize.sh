#!/bin/sh
# compute-sanitizer over the linears' checks on small shapes: decode, wide (wgmma), norms folded in, prefill. Argument:
# where the benches are, such as .cmake/gpu/bench. Fails where a tool finds something.
set -e
for tool in memcheck racecheck initcheck; do
  for program in "cuda_linear_decode_bench tiny" "cuda_linear_prefill_bench --tiny" "cuda_linear_decode_bench tiny_whole"; do
    echo "$tool $program"
    # shellcheck disable=SC2086 # a program and its options
    compute-sanitizer --tool "$tool" --error-exitcode 2 --print-limit 4 "${1:-.}"/$program
  done
done
