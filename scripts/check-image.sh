#!/bin/bash
# Builds the Dockerfile by buildah, on a base that debootstrap makes, and runs the image; needs root and a mirror of Debian.
# Says so where it cannot run. Prints counts last.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit
skip() {
  echo "not run: $1"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}
command -v buildah >/dev/null || skip "buildah is not here"
command -v debootstrap >/dev/null || skip "debootstrap is not here"
[ "$(id -u)" = 0 ] || skip "debootstrap needs root"
ls release/*.tgz >/dev/null 2>&1 || skip "release/ has no tarballs: npm run release"

suite=${MILLRACE_DEBIAN:-bookworm}
work=$(mktemp -d)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
# shellcheck disable=SC2064 # the path of now
trap "buildah ${storage[*]} rm --all >/dev/null 2>&1; rm -rf '$work'" EXIT
export BUILDAH_ISOLATION=chroot

passed=0 failed=0
try() { # <what> <command ...>
  local what=$1
  shift
  if "$@" >"$work/log" 2>&1; then passed=$((passed + 1)) && echo "ok: $what"; else failed=$((failed + 1)) && echo "FAILED: $what" && tail -n 20 "$work/log"; fi
}
done_with() {
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
  exit
}

debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/base" >"$work/log" 2>&1 || skip "debootstrap failed: $(tail -n 1 "$work/log")"
# This machine's node and npm, as node's images have them.
cp -L "$(command -v node)" "$work/base/usr/local/bin/node"
mkdir -p "$work/base/usr/local/lib/node_modules"
cp -rL "$(npm root -g)/npm" "$work/base/usr/local/lib/node_modules/npm"
ln -s ../lib/node_modules/npm/bin/npm-cli.js "$work/base/usr/local/bin/npm"
ln -s ../lib/node_modules/npm/bin/npx-cli.js "$work/base/usr/local/bin/npx"
# And whom this machine trusts: a proxy's certificate, where one stands between it and the registry.
cp -L "${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}" "$work/base/etc/ssl/certs/ca-certificates.crt"
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" copy -q "$base" "$work/base" / >/dev/null
buildah "${storage[@]}" config --env NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt "$base"
buildah "${storage[@]}" commit -q "$base" millrace-base >/dev/null || skip "buildah cannot commit here"

try "the image is built" buildah "${storage[@]}" build --build-arg NODE=localhost/millrace-base -t millrace .
container=$(buildah "${storage[@]}" from --pull=never localhost/millrace) || done_with
in_image() { buildah "${storage[@]}" run "$container" -- "$@"; }
speaks() { in_image /app/node_modules/.bin/millrace generate /app/node_modules/millrace/models/demo "Once upon a time" --max-tokens 8 | grep -q "there was a kind girl"; }
nobody() { [ "$(in_image id -u)" = 10001 ]; }
bare() { ! in_image sh -c 'command -v cc || command -v g++ || command -v cmake || ls -d /usr/local/cuda*' >/dev/null 2>&1; }
try "it speaks" speaks
try "it is not root" nobody
try "it has nothing to build with" bare
try "doctor finds nothing wrong" in_image /app/node_modules/.bin/millrace doctor
done_with
