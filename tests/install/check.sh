#!/bin/sh
# Installs into an empty folder and uses it from outside the tree: both examples by find_package, one by pkg-config, every
# public header by itself. usage: check.sh CMAKE SOURCE BUILD COMPILER
set -eu
cmake=$1 source=$2 build=$3 compiler=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix

"$cmake" --install "$build" --prefix "$prefix" > "$work/install.log"
[ -x "$prefix/bin/rondo" ]
# The installed command finds the plug-ins that lie beside the library.
LD_LIBRARY_PATH=$build/tests/ascend_simulator "$prefix/bin/rondo" doctor | grep -q "ok      plug-in .*$prefix/.*librondo_ascend.so"

# A public header needs nothing but the standard library and its own kind.
for header in "$prefix"/include/rondo/*.h; do
  echo "#include <rondo/$(basename "$header")>" > "$work/header.cpp"
  "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I"$prefix/include" "$work/header.cpp"
done
if grep -n '#include [<"]' "$prefix"/include/rondo/*.h | grep -vE '#include (<[a-z_]+>|"rondo/[a-z_]+\.h")'; then
  echo "a public header includes something else" >&2
  exit 1
fi

for example in attention text_to_image; do
  "$cmake" -S "$source/examples/$example" -B "$work/$example" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$compiler" \
    -DCMAKE_BUILD_TYPE=Release > "$work/configure.log" || { cat "$work/configure.log"; exit 1; }
  "$cmake" --build "$work/$example"
done
"$work/attention/attention"
"$work/text_to_image/text_to_image" "$prefix/share/rondo/models/emoji" "red heart" "$work/heart.ppm"
[ "$(head -c 2 "$work/heart.ppm")" = P6 ]
[ "$(wc -c < "$work/heart.ppm")" -gt 12288 ]

# The installed library shows public names only.
library=$(find "$prefix" -name librondo.so)
if nm -D --defined-only -C "$library" | grep -E ' [TWVBD] ' | grep -E 'dnnl::|nlohmann|hwy::|rondo::cpu::' | head -5 | grep .; then
  echo "librondo.so shows internal names" >&2
  exit 1
fi

packages=$(dirname "$(find "$prefix" -name rondo.pc)")
flags=$(PKG_CONFIG_PATH=$packages pkg-config --define-variable=prefix="$prefix" --cflags --libs rondo)
# shellcheck disable=SC2086  # the flags are a list
"$compiler" -std=c++20 "$source/examples/attention/main.cpp" -o "$work/by_pkg_config" $flags
LD_LIBRARY_PATH=$(dirname "$library") "$work/by_pkg_config"
