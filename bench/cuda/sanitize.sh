#!/bin/sh
# compute-sanitizer over the kernels' checks on small shapes: linears (decode, wide, prefill, wgmma), attention, norm,
# embedding. Argument: where the benches are, such as build/bench. Fails where a tool finds something.
set -e
for tool in memcheck racecheck initcheck synccheck; do
  for program in "cuda_linear_decode_bench tiny" "cuda_linear_prefill_bench --tiny" "cuda_attention_bench --checks --quick"; do
    # Attention's checks run many shapes: the slowest tool leaves them to the others.
    case "$tool $program" in "racecheck cuda_attention"*) continue ;; esac
    echo "$tool $program"
    # shellcheck disable=SC2086 # a program and its options
    compute-sanitizer --tool "$tool" --error-exitcode 2 --print-limit 4 "${1:-.}"/$program
  done
done
