# What the builds stand on, fetched once into target/tools: zig with cargo-zigbuild, and a private copy of the toolchain
# with the standard library's source. Nothing outside target/ is changed. Sourced from the repository's root.

zig_version=0.17.1
zigbuild_version=0.24.0
blake3_version=1.0.8
tools="$PWD/target/tools"

# A virtual environment with zig and cargo-zigbuild, ahead in PATH. Inside the repository's folder, so that every path
# that a compiler sees begins with a prefix that is left out of the programs.
zig_tools() {
  python_tools
  export PATH="$tools/zig/bin:$PATH"
  # Without a Python it takes the program named here, not the package of the environment.
  export CARGO_ZIGBUILD_PYTHON_PATH=false CARGO_ZIGBUILD_ZIG_PATH="$PWD/cross/lib/zig"
  export CARGO_ZIGBUILD_CACHE_DIR="$tools/zigbuild" ZIG_GLOBAL_CACHE_DIR="$tools/zig-cache"
}

python_tools() {
  local wanted="ziglang==$zig_version cargo-zigbuild==$zigbuild_version blake3==$blake3_version"
  [ "$(cat "$tools/zig/wanted" 2>/dev/null)" != "$wanted" ] || return 0
  mkdir -p "$tools"
  python3 -m venv "$tools/zig"
  # shellcheck disable=SC2086
  "$tools/zig/bin/pip" install --quiet --disable-pip-version-check $wanted
  echo "$wanted" >"$tools/zig/wanted"
}

# The source of exactly this compiler's standard library where the compiler looks for it.
rust_src() {
  [ ! -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || return 0
  local copy="$tools/toolchain" version
  version=$(rustc --version | cut -d' ' -f2)
  if [ "$(cat "$copy/version" 2>/dev/null)" != "$version" ]; then
    rm -rf "$copy" "$tools/rust-src"
    debian_rust_src "$version"
    copy_toolchain "$copy"
    echo "$version" >"$copy/version"
  fi
  export PATH="$copy/bin:$PATH"
  unset RUSTUP_TOOLCHAIN
}

copy_toolchain() {
  local sysroot
  sysroot=$(rustc --print sysroot)
  mkdir -p "$1"
  cp -a "$sysroot/bin" "$sysroot/lib" "$1/"
  mkdir -p "$1/lib/rustlib/src"
  # Relative, so that a copy of target/ works elsewhere.
  ln -s ../../../../rust-src/rust "$1/lib/rustlib/src/rust"
}

# Debian's package of the source, through apt with a state of its own: its signatures are checked as for any package,
# from the mirror that this machine uses, and nothing is installed.
debian_rust_src() {
  local apt="$tools/apt" key=/usr/share/keyrings/debian-archive-keyring.gpg mirror options suite
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$tools/rust-src"
  mirror=$(apt-get download --print-uris libc6 | sed -E "s,^'(.*)/pool/.*,\1,")
  for suite in bookworm-backports trixie trixie-backports sid; do
    echo "deb [signed-by=$key] $mirror $suite main"
  done >"$apt/sources.list"
  options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update
  (cd "$tools/rust-src" && apt-get "${options[@]}" -qq download "rust-src=$1*")
  dpkg -x "$tools"/rust-src/rust-src_*.deb "$tools/rust-src"
  ln -s "usr/src/rustc-$1" "$tools/rust-src/rust"
}

# BLAKE3 sums of files, in the form of b3sum.
b3sums() {
  if command -v b3sum >/dev/null; then
    b3sum -- "$@"
    return
  fi
  python_tools
  "$tools/zig/bin/python3" -c '
import sys, blake3
for name in sys.argv[1:]:
    print(blake3.blake3(open(name, "rb").read()).hexdigest() + "  " + name)' "$@"
}
