#!/bin/sh
# install.sh PREFIX [BUILT]: libraries, headers, bge.pc and the CMake package. BUILT is the folder of libbge.a and libbge.so;
# without it they are built for release. `make install PREFIX=...` calls this.
set -eu
cd "$(dirname "$0")/.."
prefix=${1:?usage: install.sh PREFIX [BUILT]}
if [ $# -gt 1 ]; then
    built=$2
else
    cargo build --locked --release -p bge_capi
    built=${CARGO_TARGET_DIR:-target}/release
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
install -d "$prefix/lib/pkgconfig" "$prefix/lib/cmake/bge" "$prefix/include"
install -m 644 "$built/libbge.a" "$prefix/lib/"
install -m 755 "$built/libbge.so" "$prefix/lib/"
install -m 644 include/bge.h include/bge.hpp "$prefix/include/"
sed "s|@PREFIX@|$(cd "$prefix" && pwd)|; s|@VERSION@|$version|" bge_capi/bge.pc.in >"$prefix/lib/pkgconfig/bge.pc"
sed "s|@VERSION@|$version|" bge_capi/bgeConfig.cmake.in >"$prefix/lib/cmake/bge/bgeConfig.cmake"
cat >"$prefix/lib/cmake/bge/bgeConfigVersion.cmake" <<VERSION
set(PACKAGE_VERSION "$version")
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
VERSION
