#!/bin/sh
# Installs the Debian packages of debian-packages.txt that are missing. Uses sudo only when it must; without rights it
# prints the line to run and fails.
set -eu
list="$(dirname "$0")/debian-packages.txt"
missing=""
for package in $(grep -v '^#' "$list"); do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

command="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
  apt-get update -q && DEBIAN_FRONTEND=noninteractive $command
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive $command
elif command -v sudo >/dev/null && [ -t 0 ]; then
  echo "These packages are missing:$missing"
  sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive $command
else
  echo "Packages are missing and this user may not install them. Run, as root:" >&2
  echo "  $command" >&2
  exit 1
fi
