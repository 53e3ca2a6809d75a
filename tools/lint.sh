#!/bin/sh
# clang-format over every source and clang-tidy over every file of the library and the command. usage: lint.sh BUILD
set -eu
build=$1
git ls-files '*.h' '*.cpp' | xargs clang-format --dry-run --Werror
# clang knows neither g++'s precompiled headers nor all its flags: give it a database without them.
mkdir -p build/lint
python3 - "$build" <<'PYTHON'
import json, re, sys
entries = json.load(open(f"{sys.argv[1]}/compile_commands.json"))
kept = []
for entry in entries:
    if "/src/" not in entry["file"] or "cmake_pch" in entry["file"]:
        continue
    entry["command"] = re.sub(r"-Winvalid-pch|-include \S*cmake_pch\S*|-Wno-maybe-uninitialized|^\S*ccache ", " ", entry["command"])
    kept.append(entry)
json.dump(kept, open("build/lint/compile_commands.json", "w"))
# What this build leaves out (the CUDA plug-in's libraries) cannot be looked at.
open("build/lint/files", "w").write("".join(entry["file"] + "\n" for entry in kept))
PYTHON
sort -u build/lint/files | xargs -P "$(nproc)" -n 4 clang-tidy -p build/lint --quiet --warnings-as-errors='*'
