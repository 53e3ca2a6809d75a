#!/usr/bin/env bash
# Runs make targets of this checkout in a fresh Debian 12 root: minbase, git and make, nothing else. What set-up forgets
# to install fails there. The root is removed at the end. Needs root rights and debootstrap.
# usage: check_fresh.sh [--ccache] TARGET...
#   --ccache        uses this machine's compiler cache (default: an empty one)
#   DEBIAN_MIRROR   where packages come from (default: http://deb.debian.org/debian)
set -euo pipefail
# shellcheck disable=SC2046  # a list of names
unset $(git rev-parse --local-env-vars 2> /dev/null)  # or git would work on the caller's repository in place of the copy
home=${HOME:-/root}
source=$(cd "$(dirname "$0")/.." && pwd)
cache=""
if [ "${1:-}" = --ccache ]; then
  cache=${CCACHE_DIR:-$home/.cache/ccache}
  shift
fi
if [ $# = 0 ]; then
  echo "usage: check_fresh.sh [--ccache] TARGET..." >&2
  exit 2
fi
if [ "$(id -u)" != 0 ]; then
  echo "check-fresh: needs root rights, for debootstrap, mounts and chroot; run it as root" >&2
  exit 1
fi
for tool in debootstrap unshare git; do
  if ! command -v "$tool" > /dev/null; then
    echo "check-fresh: $tool is missing; run: apt-get install debootstrap util-linux git" >&2
    exit 1
  fi
done

root=$(mktemp -d "${TMPDIR:-/var/tmp}/rondo-fresh.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
echo "check-fresh: a fresh Debian 12 in $root"
debootstrap --variant=minbase bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$root.log" 2>&1 ||
  { cat "$root.log" >&2; exit 1; }
rm "$root.log"

# The checkout as it is now, commits and changed files, without what git ignores.
mkdir -p "$root/rondo"
git -C "$source" ls-files -z --cached --others --exclude-standard |
  tar -C "$source" --null --files-from=- --ignore-failed-read -c 2> /dev/null | tar -C "$root/rondo" --no-same-owner -x
git clone --quiet --bare --no-hardlinks "$source" "$root/rondo/.git"
git -C "$root/rondo" config core.bare false
git -C "$root/rondo" reset --quiet

# This machine's names, as an installer writes them: without its own name mpirun waits seconds for the network's answer.
for file in /etc/hosts /etc/hostname /etc/resolv.conf; do
  [ ! -e "$file" ] || cp -L "$file" "$root$file"
done

# How it reaches registries: certificates, pip's settings, proxies, the local folders that they name.
for file in /etc/pip.conf "$home/.config/pip/pip.conf" /usr/local/share/ca-certificates /etc/ssl/certs/ca-certificates.crt "${SSL_CERT_FILE:-}" "${PIP_CERT:-}" "${PIP_FIND_LINKS:-}"; do
  if [ "${file#/}" != "$file" ] && [ -e "$file" ] && [ ! -e "$root$file" ]; then
    mkdir -p "$root$(dirname "$file")"
    cp -RL "$file" "$root$file"
  fi
done
settings=()
while IFS= read -r line; do settings+=("$line"); done < <(
  env | grep -E '^(PIP_[A-Z_]+|SSL_CERT_FILE|SSL_CERT_DIR|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|CI)=' || true)

# In namespaces of its own: mounts and processes are gone with it, so that removing the root removes nothing else.
mkdir -p "$root/root/.cache/ccache" ${cache:+"$cache"}
env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 ${settings[@]+"${settings[@]}"} \
  unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    root=$1 cache=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    [ -z "$cache" ] || mount --bind "$cache" "$root/root/.cache/ccache"
    chroot "$root" sh -euc "apt-get update -q && apt-get install -qq -y --no-install-recommends git make > /dev/null"
    for target; do
      echo "check-fresh: make $target"
      chroot "$root" make -C /rondo "$target"
    done' check-fresh "$root" "$cache" "$@" < /dev/null
echo "check-fresh: passed: $*"
