#!/usr/bin/env bash
# Builds the sample guests into tests/guests/*.wasm.
#
#   build.sh                  all of them
#   build.sh image crash      some of them
#   build.sh --install        installs what this needs (Debian, as root)
#   build.sh --list           their names
#
# CARGO_TARGET_DIR (default ${TMPDIR:-/tmp}/sandscope-guests) receives everything
# intermediate, JOBS (default 2) limits cargo. README.md says what the guests are.
set -euo pipefail

PACKAGES=(
    rustc-web cargo-web rust-web-src rust-web-llvm lld-22 wasi-libc # Rust guests
    clang-19 lld-19 libclang-rt-19-dev-wasm32                       # C++ guests
    libc++-19-dev-wasm32 libc++abi-19-dev-wasm32
)
# MoonBit's compiler, from npm; node (18 or later) and npm come from wherever they are.
MOONC=0.1.202605123
GUESTS=(image crash crash-o1 crash-debug analytics session ticker pricing inference parallel gc)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
repository=$(cd "$here/../.." && pwd -P)
target_dir=${CARGO_TARGET_DIR:-${TMPDIR:-/tmp}/sandscope-guests}
sysroot=/usr/lib/wasm32-wasi
build_id=-Clink-arg=--build-id
library=/usr/lib/rustlib/src/rust

# Debian's compilers, not a rustup proxy that may come first in PATH.
export PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc
# For -Zbuild-std: Debian has the sources of std for wasm, but no built std.
export RUSTC_BOOTSTRAP=1
# Nothing of the caller's own configuration may end in a guest.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET RUSTC_WRAPPER

main() {
    local guest
    case ${1:-} in
        --install) exec apt-get install -y --no-install-recommends "${PACKAGES[@]}" ;;
        --list) printf '%s\n' "${GUESTS[@]}" && return ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && return ;;
    esac
    [[ -d $library && -d $sysroot ]] ||
        fail "a Debian package is missing: run '$0 --install' (${PACKAGES[*]})"
    for guest in "${@:-${GUESTS[@]}}"; do
        [[ " ${GUESTS[*]} " == *" $guest "* ]] || fail "no guest is called '$guest': ${GUESTS[*]}"
    done
    for guest in "${@:-${GUESTS[@]}}"; do
        echo "== $guest" >&2
        "build_${guest//-/_}"
        check_paths "$here/$guest.wasm"
    done
}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

# --- The guests ---------------------------------------------------------------

# Whether a guest has a build id is deliberate: some have one, some have none,
# because readers of modules have to cope with both.
build_image() { command_guest image release image "$build_id"; }
build_crash() { command_guest crash release crash; }
build_crash_o1() { command_guest crash light crash-o1; }
build_crash_debug() { command_guest crash unoptimized crash-debug; }
build_analytics() { command_guest analytics release analytics "$build_id"; }
build_pricing() { cpp_guest pricing -Wl,--build-id; }
build_inference() {
    command_guest inference release inference "$build_id" -C target-feature=+simd128
}
build_session() { component_guest session; }
build_ticker() { component_guest ticker; }

# Threads: Debian's libc is built without them, so this guest does without libc.
build_parallel() {
    rust_flags -C target-feature=+atomics,+bulk-memory,+mutable-globals
    run_cargo parallel wasm32-unknown-unknown release \
        -C link-arg=--shared-memory -C link-arg=--max-memory=268435456 \
        -C link-arg=--import-memory -C link-arg=--export-memory=memory
    install_wasm "$target_dir/wasm32-unknown-unknown/release/parallel.wasm" parallel
}

# --- Rust ---------------------------------------------------------------------

# command_guest NAME PROFILE OUTPUT [FLAG…]: a WASI 0.1 command.
command_guest() {
    local name=$1 profile=$2 output=$3
    local flags=(-C "link-arg=$sysroot/crt1-command.o" "${@:4}")
    rust_flags
    run_cargo "$name" wasm32-wasip1 "$profile" "${flags[@]}"
    install_wasm "$target_dir/wasm32-wasip1/$profile/$name.wasm" "$output"
}

# component_guest NAME: a component for HTTP, of WASI 0.2 or 0.3, which rustc's own linker makes.
# Debian's wasi-libc speaks WASI 0.1 only; of the adapters that the linker has for that,
# `proxy` is the one that does not import a file system.
component_guest() {
    rust_flags -C linker=wasm-component-ld
    run_cargo "$1" wasm32-wasip2 release -C link-arg=--wasi-adapter=proxy
    install_wasm "$target_dir/wasm32-wasip2/release/$1.wasm" "$1"
}

# run_cargo NAME TARGET PROFILE FLAG…: the flags are for this guest's own rustc, so
# that guests with the same rust_flags share one std.
run_cargo() {
    local name=$1 target=$2 profile=$3
    shift 3
    (cd "$here/$name" && cargo rustc --quiet --locked --jobs "${JOBS:-2}" \
        --target-dir "$target_dir" --target "$target" --profile "$profile" \
        -Zbuild-std=std,panic_abort -- "$@")
}

# rust_flags FLAG…: exports the flags of every Rust guest, and these.
#
# Paths in the debug info have to mean the same on every machine: guests' sources
# relative to the repository, std under rust/, crates under crates/NAME-VERSION/.
rust_flags() {
    local source registry flags=(
        -C link-self-contained=no
        -C linker=rust-lld
        -L "$sysroot"
        --remap-path-prefix "$here=."
        --remap-path-prefix "$(realpath "$library")=rust"
        --remap-path-prefix "$library=rust"
    )
    # Cargo names the files of a workspace relative to it.
    for source in "$here"/*/src; do
        source=${source#"$here/"}
        flags+=(--remap-path-prefix "$source=tests/guests/$source")
    done
    for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        flags+=(--remap-path-prefix "$registry=crates")
    done
    flags+=("$@")
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo -n "${flags[*]}")
    export CARGO_ENCODED_RUSTFLAGS
}

# --- C++ ----------------------------------------------------------------------

# cpp_guest NAME [FLAG…]: a WASI 0.1 command from NAME/src/*.cpp.
cpp_guest() {
    local name=$1 built=$target_dir/$1.wasm
    shift
    mkdir -p "$target_dir"
    (cd "$repository" && clang++-19 --target=wasm32-wasi -std=c++17 -O2 -g -Wall -Wextra \
        -fno-exceptions -ffile-prefix-map=/usr/lib/llvm-19=llvm \
        -ffile-prefix-map=/usr/include=include -ffile-prefix-map="$repository=." \
        -fdebug-compilation-dir=. "$@" -o "$built" "tests/guests/$name/src"/*.cpp)
    install_wasm "$built" "$name"
}

# --- MoonBit ------------------------------------------------------------------

# WasmGC, with a source map in place of DWARF.
build_gc() {
    local npm=$target_dir/npm
    local worker=$npm/node_modules/@moonbit/moonc-worker
    mkdir -p "$npm"
    grep -qs "\"version\": \"$MOONC" "$worker/package.json" ||
        npm install --silent --no-save --ignore-scripts --prefix "$npm" "@moonbit/moonc-worker@$MOONC"
    node "$here/gc/compile.cjs" "$worker/moonc-worker.js" "$here/gc/src" "$target_dir/gc.wasm"
    install_wasm "$target_dir/gc.wasm" gc
    install -m 644 "$target_dir/gc.wasm.map" "$here/gc.wasm.map"
}

# --- Common -------------------------------------------------------------------

# install_wasm BUILT NAME: puts it in place at once, for whoever is reading it.
install_wasm() {
    install -m 644 "$1" "$here/.$2.wasm.new"
    mv "$here/.$2.wasm.new" "$here/$2.wasm"
}

# check_paths WASM: nothing of this machine may have got into it. (The names under
# /usr/lib/llvm-14 are from the builder of Debian's wasi-libc and not of this machine.)
check_paths() {
    if grep --text --only-matching --extended-regexp --max-count=3 \
        "(/root|/home|/work|/usr/src|/usr/lib/rustlib|$HOME|$repository|$target_dir)/[[:print:]]*" "$1" >&2; then
        fail "$1 has paths of this machine"
    fi
}

main "$@"
