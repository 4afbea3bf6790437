# Sourced by .ci/run and .ci/long: the environment of their builds, and what runs stages one after the other.
set -u -o pipefail
export NO_COLOR=1 CI=1
# Kernels for the oldest GPUs, for those that most have and for those with code of their own (sm_90a), in one tree: what
# the host compiles of them is compiled once. No GPU is needed.
export MILLRACE_CUDA_ARCHITECTURES=${MILLRACE_CI_ARCHITECTURES:-75-real;86-real;90-real}
jobs=$(nproc)

# Warnings stop here and not at users.
build() { # [-DNAME=VALUE ...]
  npm ci --ignore-scripts --no-audit --no-fund &&
    node scripts/build-native.mjs --all -DMILLRACE_WERROR=ON -DMILLRACE_BENCH=ON "$@" &&
    npm run --silent build
}

configure_sanitized() { # <tree> <sanitizer>
  local generator=()
  # A tree keeps the generator it was made with.
  [ -e "$1/CMakeCache.txt" ] || ! command -v ninja >/dev/null || generator=(-G Ninja)
  cmake -S . -B "$1" "${generator[@]}" -DMILLRACE_SANITIZE="$2" -DMILLRACE_WERROR=ON
}

sanitized() { # <tree> <sanitizer> [part of a test program's name ...]
  local tree=.cmake/$1 sanitizer=$2
  shift 2
  # shellcheck disable=SC2046
  configure_sanitized "$tree" "$sanitizer" &&
    cmake --build "$tree" --parallel "$jobs" --target $(node scripts/cpp-tests.mjs --names "$tree" "$@") &&
    node scripts/cpp-tests.mjs "$tree" "$@"
}
address_sanitized() { # [part of a test program's name ...]
  ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    sanitized asan address "$@"
}
thread_sanitized() { TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 sanitized tsan thread "$@"; }

# Runs each line of its input as a command, says how it ended, and prints the counts last. With a number, so many run at
# once, and what each says comes when it has ended.
each() { # [number]
  local line passed=0 failed=0 folder i=0
  folder=$(mktemp -d)
  if [ "${1:-1}" = 1 ]; then
    while read -r line; do
      echo "\$ $line"
      if bash -c "$line" </dev/null; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAILED: $line"; fi
    done
  else
    while read -r line; do
      while [ "$(jobs -rp | wc -l)" -ge "$1" ]; do wait -n; done
      i=$((i + 1))
      (
        echo "\$ $line"
        if bash -c "$line" </dev/null; then : >"$folder/$i.passed"; else echo "FAILED: $line"; fi
      ) >"$folder/$i.log" 2>&1 &
    done
    wait
    [ "$i" = 0 ] || cat $(seq -f "$folder/%g.log" "$i")
    passed=$(find "$folder" -name '*.passed' | wc -l) failed=$((i - passed))
  fi
  rm -rf "$folder"
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}

# Seeds replayed, then mutated for so many seconds. The seed of the mutations is in the output; see test/fuzz/driver.cc.
fuzz_for() { # <seconds>
  local tree=.cmake/asan target
  configure_sanitized "$tree" address && cmake --build "$tree" --parallel "$jobs" --target fuzz || return 1
  for target in test/fuzz/corpus/*; do
    echo "UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 $tree/fuzz/fuzz_${target##*/} $target --seconds $1"
  done | each "$jobs"
}

# Every stage with its time, all of them even if one fails, and the sum of the counts last. A stage is the function
# stage_<name>; the last line of counts that it prints is its own.
run_stages() {
  local stage verdict start seconds counts log p f s
  local failed=0 passed_tests=0 failed_tests=0 skipped_tests=0 times=()
  for stage in "$@"; do
    declare -F "stage_$stage" >/dev/null && continue
    echo "there is no stage '$stage'; there are: $(declare -F | sed -n 's/^declare -f stage_//p' | tr '\n' ' ')" >&2
    exit 2
  done
  log=$(mktemp)
  # shellcheck disable=SC2064 # the path of now
  trap "rm -f '$log'" EXIT
  for stage in "$@"; do
    echo "== $stage"
    start=$(date +%s.%N)
    if "stage_$stage" 2>&1 | tee "$log"; then verdict=ok; else verdict=FAILED failed=$((failed + 1)); fi
    seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$log" | tail -n 1)
    p=0 f=0 s=0
    [ -z "$counts" ] || read -r p _ f _ s _ <<<"${counts//,/}"
    passed_tests=$((passed_tests + p)) failed_tests=$((failed_tests + f)) skipped_tests=$((skipped_tests + ${s:-0}))
    [ "$verdict" = FAILED ] && [ "$f" = 0 ] && failed_tests=$((failed_tests + 1))
    times+=("$(printf '%-9s %8s s  %s%s' "$stage" "$seconds" "$verdict" "${counts:+: $counts}")")
    echo "== $stage: $verdict, $seconds s"
  done
  echo
  printf '%s\n' "${times[@]}"
  printf '%d passed, %d failed' "$passed_tests" "$failed_tests"
  [ "$skipped_tests" -gt 0 ] && printf ', %d skipped' "$skipped_tests"
  echo
  [ "$failed" -eq 0 ]
}
