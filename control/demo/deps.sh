#!/usr/bin/env bash
# Installs what is missing to build, run and test dpdk-aoe on Debian 12. As another user than root
# it only says what is missing.
set -euo pipefail

packages=(
    build-essential pkg-config libdpdk-dev dpdk libclang-dev clang   # to build
    iproute2 vblade                                                  # the demo's network and target
    fio libnbd-bin qemu-utils jq                                     # clients that the demo and tests use
    tcpdump tshark python3                                           # tests
)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done

if ! command -v cargo >/dev/null; then
    echo "deps: no cargo in this user's PATH. Rust 1.88 or later is needed, and Debian 12's own is too old: see https://rustup.rs" >&2
    exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "deps: not root, so these stay missing: ${missing[*]}" >&2
    exit 0
fi
echo "deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
