#!/bin/sh
# Builds the samples of split DWARF with Debian's clang-19, lld-19 and llvm-19: the same program with its debug info
# inside (whole), beside it (split, .dwo), and as a package (.dwp). The .wasm, .dwo and .dwp files are committed.
set -eu
cd "$(dirname "$0")"
flags="--target=wasm32 -O1 -g -nostdlib -ffile-compilation-dir=. -fdebug-prefix-map=$PWD=."
for version in 4 5; do
    for unit in first second; do
        clang++-19 $flags -gdwarf-$version -c $unit.cpp -o $unit.o
        clang++-19 $flags -gdwarf-$version -gsplit-dwarf -c $unit.cpp -o $unit$version.o
    done
    wasm-ld-19 --no-entry first.o second.o -o whole$version.wasm
    wasm-ld-19 --no-entry first$version.o second$version.o -o split$version.wasm
    llvm-dwp-19 first$version.dwo second$version.dwo -o both$version.dwp
    rm ./*.o
done
