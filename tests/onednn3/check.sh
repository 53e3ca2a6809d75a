#!/bin/sh
# Compiles (syntax only) the files that use oneDNN against version 3's headers, from PyPI's onednn-devel.
# usage: check.sh COMPILER SOURCE_FOLDER CACHE_FOLDER; exits with 77 (skipped) when the headers cannot be had
set -eu
compiler=$1 source=$2 cache=$3
version=2025.3.0
include="$cache/include"
if [ ! -f "$include/oneapi/dnnl/dnnl.hpp" ]; then
  mkdir -p "$cache"
  python3 -m pip download --quiet --no-deps --dest "$cache" "onednn-devel==$version" || exit 77
  python3 - "$cache" <<'PYTHON'
import pathlib, sys, zipfile
cache = pathlib.Path(sys.argv[1])
wheel = next(cache.glob("onednn_devel-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if "/include/" in name and not name.endswith("/"):
            target = cache / "include" / name.split("/include/", 1)[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
PYTHON
  # The wheel is built for SYCL; a distribution's is for OpenMP.
  cat > "$include/oneapi/dnnl/dnnl_config.h" <<'HEADER'
#ifndef ONEAPI_DNNL_DNNL_CONFIG_H
#define ONEAPI_DNNL_DNNL_CONFIG_H
#define DNNL_API
#define DNNL_DEPRECATED __attribute__((deprecated))
#define DNNL_RUNTIME_NONE 0u
#define DNNL_RUNTIME_SEQ 1u
#define DNNL_RUNTIME_OMP 2u
#define DNNL_RUNTIME_TBB 4u
#define DNNL_RUNTIME_THREADPOOL 8u
#define DNNL_RUNTIME_OCL 256u
#define DNNL_RUNTIME_SYCL 512u
#define DNNL_RUNTIME_DPCPP DNNL_RUNTIME_SYCL
#define DNNL_VENDOR_NONE 0u
#define DNNL_VENDOR_INTEL 1u
#define DNNL_VENDOR_NVIDIA 2u
#define DNNL_VENDOR_AMD 4u
#define DNNL_VENDOR_GENERIC 8u
#define DNNL_CPU_THREADING_RUNTIME DNNL_RUNTIME_OMP
#define DNNL_CPU_RUNTIME DNNL_RUNTIME_OMP
#define DNNL_GPU_RUNTIME DNNL_RUNTIME_NONE
#define DNNL_GPU_VENDOR DNNL_VENDOR_NONE
#endif
HEADER
fi
for file in $(cd "$source" && grep -rl 'onednn/\|oneapi/dnnl' src --include='*.cpp'); do
  "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -isystem "$include" -I "$source/include" -I "$source/src" "$source/$file"
  echo "ok: $file"
done
