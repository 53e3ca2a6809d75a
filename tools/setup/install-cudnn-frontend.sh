#!/bin/sh
# Unpacks the headers of cuDNN's front end, from PyPI, into the folder $1.
set -eu
[ -d "$1/include" ] && exit 0
mkdir -p "$1"
python3 -m venv "$1/venv"  # Debian's own Python has no pip
"$1/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$1" nvidia-cudnn-frontend==1.32.0
python3 -m zipfile -e "$1"/nvidia_cudnn_frontend-*.whl "$1/wheel"
headers=$(dirname "$(find "$1/wheel" -name cudnn_frontend.h | head -1)")
mv "$headers" "$1/include"
rm -r "$1"/wheel "$1"/venv "$1"/*.whl
