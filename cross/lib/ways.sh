# The three ways to a static build, each with a test whether this machine can go it, its tools, and the build itself. Nothing here
# ever asks rustup for anything: a target that is not installed is a way that does not work.
# Reads `out`; sourced by cross/build, from the repository's root.

first_way() {
  local way
  for way in cross zigbuild build_std; do
    if "can_$way" "$1"; then
      echo "${way/_/-}"
      return
    fi
  done
  cat >&2 <<HELP
error: no way to build $1 on this machine
hint: install the target and python3 (rustup target add $1), or the cross tool with docker or podman, or python3 on
      Debian, where apt has the source of the standard library
HELP
  return 1
}

# Containers: the tool and an engine that answers.
can_cross() {
  command -v cross >/dev/null && { docker info || podman info; } >/dev/null 2>&1
}

why_cross() { echo "the cross tool and a container engine are here"; }

prepare_cross() { :; }

by_cross() {
  CROSS_CONFIG=cross/Cross.toml cross build --quiet --locked --profile dist --target "$1" \
    --target-dir "$out" -p hive-agent -p hivectl
}

# zig as C compiler and linker, with the standard library that rustup installed.
can_zigbuild() {
  [ -d "$(rustc --print sysroot)/lib/rustlib/$1/lib" ] && python3 -c 'import venv, ensurepip' 2>/dev/null
}

why_zigbuild() { echo "rustup's target is installed, zig comes from PyPI"; }

prepare_zigbuild() { zig_tools; }

by_zigbuild() { zigbuild "$1"; }

# The same, with a standard library built from source: rustup's rust-src, or Debian's.
can_build_std() {
  python3 -c 'import venv, ensurepip' 2>/dev/null || return 1
  [ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || command -v apt-get >/dev/null
}

why_build_std() { echo "no cross tool and no installed target: the standard library is built, too"; }

prepare_build_std() {
  zig_tools
  rust_src
}

by_build_std() {
  local flags="CARGO_TARGET_${1^^}_RUSTFLAGS"
  flags=${flags//-/_}
  # Never in a shared cargo configuration: with an installed target it leaves the C library's start files out.
  export RUSTC_BOOTSTRAP=1 "$flags=-Clink-self-contained=no ${!flags}"
  # Without backtraces, which stripped programs could not name functions in.
  zigbuild "$1" -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size
}

zigbuild() {
  local target=$1
  shift
  cargo zigbuild --quiet --locked --profile dist "$@" --target "$target" --target-dir "$out" \
    -p hive-agent -p hivectl
}
