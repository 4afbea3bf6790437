#!/bin/bash
# Runs the tarballs of release/ on the oldest Debian that debootstrap brings (bullseye: glibc 2.31), with this machine's node
# if it runs there. Needs root and a mirror; says so where it cannot run. Prints counts last.
#   scripts/check-floor.sh [suite]
set -u -o pipefail
cd "$(dirname "$0")/.." || exit
skip() {
  echo "not run: $1"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
}
command -v debootstrap >/dev/null || skip "debootstrap is not here"
[ "$(id -u)" = 0 ] || skip "debootstrap needs root"
ls release/*.tgz >/dev/null 2>&1 || skip "release/ has no tarballs: npm run release"
suite=${1:-bullseye}
root=$(mktemp -d)
# shellcheck disable=SC2064 # the path of now
trap "umount '$root/proc' 2>/dev/null; rm -rf '$root'" EXIT
mirror=${MILLRACE_MIRROR:-http://deb.debian.org/debian}
debootstrap --variant=minbase --include=libstdc++6 "$suite" "$root" "$mirror" >"$root.log" 2>&1 || skip "debootstrap failed: $(tail -n 1 "$root.log")"
rm -f "$root.log"
cp -L "$(command -v node)" "$root/usr/local/bin/node"
chroot "$root" node --version >/dev/null 2>&1 || skip "this node does not run on $suite"
mkdir "$root/project" && mount -t proc proc "$root/proc" || skip "proc cannot be mounted"
# Installed here, used there.
(cd "$root/project" && echo '{}' >package.json && npm install --no-audit --no-fund "$OLDPWD"/release/*.tgz >/dev/null) || skip "npm install failed"
echo "glibc $(chroot "$root" ldd --version | sed -n '1s/.* //p')"
if chroot "$root" /usr/local/bin/node /project/node_modules/millrace/dist/cli/main.js generate /project/node_modules/millrace/models/demo \
  "Once upon a time" --placement streamed --max-tokens 8 | grep "there was a kind girl"; then
  echo "1 passed, 0 failed"
else
  echo "0 passed, 1 failed"
  exit 1
fi
