#!/bin/bash
# Everything that needs a GPU, in order, on a machine that has one; later steps run though earlier ones fail.
#   npm ci --ignore-scripts && node scripts/build-native.mjs --bench -DMILLRACE_CUDA=ON   # what it needs, once
#   scripts/gpu-check.sh [step ...]        # default: all of them; names as below
# Prints a line PASS, FAIL, CUT (out of time) or SKIP a step, and its log below a failure. Logs go to $OUT, by default
# .cmake/gpu-check. MILLRACE_CHECK_SECONDS bounds the whole (default 540), MILLRACE_SCHEDULES is test/gpu's. The status is
# 0 where every step passed or was skipped, and at least one passed.
set -u
cd "$(dirname "$0")/.." || exit 2
export NO_COLOR=1 MILLRACE_SCHEDULES=${MILLRACE_SCHEDULES:-25}
tree=.cmake/Release
logs=${OUT:-.cmake/gpu-check}
total=${MILLRACE_CHECK_SECONDS:-540}
mkdir -p "$logs"
passed=0 failed=0 cut=0 skipped=0
wanted=("$@")
summary=()

say() {
  summary+=("$1")
  echo "$1"
}

# step NAME LIMIT COMMAND...: within LIMIT seconds and what is left of all.
step() {
  local name=$1 limit=$2 begin=$SECONDS status verdict left
  shift 2
  if [ ${#wanted[@]} -gt 0 ] && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
  left=$((total - SECONDS))
  if [ "$left" -lt 10 ]; then
    cut=$((cut + 1))
    say "CUT   $name: no time is left for it"
    return
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1
  status=$?
  case $status in
    0) verdict=PASS passed=$((passed + 1)) ;;
    124 | 137) verdict=CUT cut=$((cut + 1)) ;;
    127) verdict=SKIP skipped=$((skipped + 1)) ;;
    *) verdict=FAIL failed=$((failed + 1)) ;;
  esac
  say "$(printf '%-5s %s: %d s, %s' "$verdict" "$name" $((SECONDS - begin)) "$(counts "$logs/$name.log")")"
  [ "$verdict" = FAIL ] || [ "$verdict" = CUT ] && tail -n 40 "$logs/$name.log" | sed 's/^/      /'
}

# The line of a log that counts: of a test program, of vitest, of sanitize.sh, or else its last one.
counts() {
  { grep -aE '^[0-9]+ (passed|clean), |^ +Tests ' "$1" || tail -n 1 "$1"; } | tail -n 1 | sed 's/^ *//'
}

# What has skipped all of its tests has shown nothing.
tested() {
  [ -x "$1" ] || { echo "$1 is not built: node scripts/build-native.mjs --all -DMILLRACE_CUDA=ON"; return 1; }
  "$@" 2>&1 | tee /dev/stderr | grep -aE '^[1-9][0-9]* passed, 0 failed' >/dev/null && [ "${PIPESTATUS[0]}" = 0 ]
}
vitest() {
  node node_modules/vitest/vitest.mjs run "$@" 2>&1 | tee /dev/stderr | grep -aE '^ +Tests .*[1-9][0-9]* passed' >/dev/null &&
    [ "${PIPESTATUS[0]}" = 0 ]
}

# What checks itself in a bench.
checked() {
  [ -x "$1" ] || { echo "$1 is not built: node scripts/build-native.mjs --bench -DMILLRACE_CUDA=ON"; return 127; }
  "$@"
}

sanitized() {
  [ -x "$tree/bench/cuda_linear_decode_bench" ] || { echo "the benches are not built"; return 127; }
  bench/cuda/sanitize.sh "$tree/bench" 25
}

export tree
export -f tested vitest checked sanitized
within() { step "$1" "$2" bash -c '"$@"' bash "${@:3}"; }

if ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
  echo "FAIL  there is no GPU here (nvidia-smi -L names none)"
  exit 2
fi
nvidia-smi --query-gpu=index,name,driver_version,memory.free --format=csv,noheader

for program in capture promises waits; do
  within "cpp-$program" 100 tested "$tree/test/cuda_${program}_test"
done
within memory 60 vitest test/gpu/memory.test.ts # by itself: it looks at what is free on the GPU
within vitest 360 vitest test/gpu --exclude '**/memory.test.ts'
within attention-checks 40 checked "$tree/bench/cuda_attention_bench" --checks
within linear-checks 40 checked "$tree/bench/cuda_linear_decode_bench" check
within sanitize 120 sanitized

echo
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $cut cut off, $skipped skipped, $SECONDS s; logs in $logs"
[ "$failed" = 0 ] && [ "$cut" = 0 ] && [ "$passed" -gt 0 ]
