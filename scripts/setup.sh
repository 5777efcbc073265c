#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks. Asks before it uses sudo.
#
#   scripts/setup.sh build   compiler, Rust, a Vulkan driver (software where there is no GPU)
#   scripts/setup.sh web     the same, and what the browser build needs: Rust for WebAssembly, Node.js
#   scripts/setup.sh test    all that, and cargo-nextest, Python with numpy, Chromium and SwiftShader where they can be had
#
# HAIKUQ_YES=1 answers yes to the question; HAIKUQ_NO_INSTALL=1 installs nothing and only reports what is missing.
set -euo pipefail
what=${1:-build}
root=$(cd "$(dirname "$0")/.." && pwd)
say() { printf 'setup: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }
export PATH="$HOME/.cargo/bin:$PATH"

vulkan_found() {
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || return 1
    compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null
}
rust_found() {
    has cargo || return 1
    local minor
    minor=$(cargo --version | sed -E 's/cargo 1\.([0-9]+).*/\1/')
    [ "$minor" -ge 90 ] 2>/dev/null
}

# Vitest and Vite want this Node.js or a newer one.
node_found() { has node && has npm && node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 22 || (a == 22 && b >= 12) ? 0 : 1)'; }
chromium_found() { [ -n "${HAIKUQ_CHROMIUM:-}" ] || has chromium || has chromium-browser || has google-chrome; }

packages=()
has cc || packages+=(build-essential)
has curl || packages+=(curl ca-certificates)
[ "$(uname -s)" = Darwin ] || vulkan_found || packages+=(libvulkan1 mesa-vulkan-drivers)
if [ "$what" != build ]; then
    [ -x "$root/.tools/node/bin/node" ] || has npm || packages+=(nodejs npm)
fi
if [ "$what" = test ]; then
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3 python3-venv)
    # Debian's Chromium carries SwiftShader, a second software GPU (without f16). Ubuntu's is a snap without it.
    if [ ! -e /usr/lib/chromium/vk_swiftshader_icd.json ] && grep -qs '^ID=debian' /etc/os-release; then
        packages+=(chromium)
    fi
    if ! grep -qs '^ID=debian' /etc/os-release && ! chromium_found; then
        say "note: no Chromium or Chrome found; the browser tests need one (HAIKUQ_CHROMIUM names it)"
    fi
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}
apt_install() {
    if ! has apt-get; then
        say "missing: $*. Please install these (names are Debian's) and run this again."
        return 1
    fi
    if [ -n "${HAIKUQ_NO_INSTALL:-}" ]; then
        say "missing: $* (HAIKUQ_NO_INSTALL is set)"
        return 1
    fi
    if [ "$(id -u)" != 0 ] && [ -z "${HAIKUQ_YES:-}" ]; then
        has sudo || { say "missing: $*. Please install them as root: apt-get install $*"; return 1; }
        [ -t 0 ] || { say "missing: $*. Run: sudo apt-get install $*   (or set HAIKUQ_YES=1)"; return 1; }
        read -r -p "setup: install $* with sudo apt-get? [y/N] " answer </dev/tty
        case $answer in y | Y | yes) ;; *) say "nothing was installed"; return 1 ;; esac
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
if [ ${#packages[@]} -gt 0 ]; then
    say "installing ${packages[*]}"
    apt_install "${packages[@]}"
fi

if ! rust_found; then
    [ -z "${HAIKUQ_NO_INSTALL:-}" ] || { say "missing: Rust 1.90 or later"; exit 1; }
    say "installing Rust with rustup (into ~/.cargo)"
    if ! curl --proto '=https' --tlsv1.2 -sSf --max-time 60 https://sh.rustup.rs 2>/dev/null | sh -s -- -y -q --profile minimal >&2 || ! rust_found; then
        say "rustup could not be reached; trying the distribution's Rust"
        apt_install rustc-web cargo-web || apt_install rustc cargo
        hash -r
        rust_found || { say "no Rust 1.90 or later could be installed; see https://rustup.rs"; exit 1; }
    fi
fi

if [ "$what" != build ]; then
    if ! node_found && [ ! -x "$root/.tools/node/bin/node" ]; then
        say "installing Node.js 22 (into .tools/node)"
        [ -z "${HAIKUQ_NO_INSTALL:-}" ] || { say "missing: Node.js 22.12 or later"; exit 1; }
        npm install --silent --no-audit --no-fund --prefix "$root/.tools/node" "node@22"
        mkdir -p "$root/.tools/node/bin"
        ln -sf ../node_modules/node/bin/node "$root/.tools/node/bin/node"
        "$root/.tools/node/bin/node" --version >/dev/null || { say "Node.js could not be installed; see https://nodejs.org"; exit 1; }
    fi
    "$root/scripts/wasm.sh" --check-toolchain 2>/dev/null || {
        say "rustup cannot add wasm32-unknown-unknown; installing the distribution's Rust for the web"
        apt_install rustc-web cargo-web rust-web-src lld-19 || apt_install rustc-web cargo-web rust-web-src lld
        "$root/scripts/wasm.sh" --check-toolchain
    }
fi

if [ "$what" = test ]; then
    if ! cargo nextest --version >/dev/null 2>&1; then
        say "installing cargo-nextest"
        case "$(uname -s)-$(uname -m)" in
            Linux-x86_64) build=linux ;;
            Linux-aarch64) build=linux-arm ;;
            *) build=mac ;;
        esac
        mkdir -p "$HOME/.cargo/bin"
        curl -LsSf --max-time 120 "https://get.nexte.st/latest/$build" 2>/dev/null | tar zxf - -C "$HOME/.cargo/bin" 2>/dev/null ||
            cargo install --locked --quiet cargo-nextest
    fi
    "$root/scripts/setup-python.sh"
fi
