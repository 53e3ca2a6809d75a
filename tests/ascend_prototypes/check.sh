#!/bin/sh
# Compiles check.cpp against the AscendCL and HCCL headers of the torch-npu wheel (from PyPI: headers only, 44 MB once).
# $1 the compiler, $2 the project, $3 a folder to work in. Skipped (77) where the wheel cannot be had.
set -eu
compiler="$1" project="$2" folder="$3"
wheel=torch-npu==2.14.0
if [ ! -d "$folder/torch_npu/include" ]; then
  mkdir -p "$folder"
  python3 -m venv "$folder/venv"  # Debian's own Python has no pip
  "$folder/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --dest "$folder" "$wheel" || { echo "$wheel cannot be downloaded"; exit 77; }
  python3 - "$folder" <<'PYTHON'
import glob, sys, zipfile
folder = sys.argv[1]
with zipfile.ZipFile(glob.glob(f"{folder}/*.whl")[0]) as wheel:
    wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith(("torch_npu/include/acl/", "torch_npu/include/third_party/"))])
PYTHON
  rm -r "$folder"/*.whl "$folder/venv"
fi
include="$folder/torch_npu/include"
# aclCreateTensor and its kin are typedefs in a header that needs torch: they are taken out of it.
python3 - "$include/third_party/op-plugin/op_plugin/utils/op_api_common_base.h" "$folder/acl_tensor_typedefs.h" <<'PYTHON'
import sys
text = open(sys.argv[1]).read()
open(sys.argv[2], "w").write(text[text.index("typedef struct aclOpExecutor"):text.index("using OpApiFunc")])
PYTHON
"$compiler" -std=c++20 -fsyntax-only -isystem "$include" -I "$folder" -I "$project/src" "$project/tests/ascend_prototypes/check.cpp"
