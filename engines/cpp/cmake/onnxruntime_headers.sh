#!/bin/sh
# Gets the headers of ONNX Runtime from Debian, without root: its package is fetched with apt's own signature checks from
# the mirror that this machine's apt is set up with, and unpacked in the folder DEST. Nothing is installed.
#
#     onnxruntime_headers.sh DEST [SUITE]
#
# Exits 0 where DEST has them, 1 with one line that says why not.
set -eu

dest=${1:?give the folder to unpack in}
suite=${2:-trixie} # the first Debian that has them; older headers run against a newer library
package=libonnxruntime-dev

fail() {
    echo "onnxruntime headers: $1" >&2
    exit 1
}

[ -e "$dest/usr/include/onnxruntime/onnxruntime_cxx_api.h" ] && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    fail "no apt on this machine; give -DONNXRUNTIME_INCLUDE_DIR=FOLDER of any release's headers"
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | head -n 1)
[ -n "$mirror" ] || fail "apt knows no Debian mirror here; run apt-get update, or give -DONNXRUNTIME_INCLUDE_DIR=FOLDER"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || fail "$keyring is missing; install debian-archive-keyring"

mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
echo "deb [signed-by=$keyring] $mirror $suite main" >"$state/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$state/lists" -o Dir::Cache="$state/cache" -o APT::Sandbox::User= "$@" 2>"$state/log"
}
cd "$state"
{ apt update && apt download "$package"; } || fail "$package of $suite cannot be fetched ($(tail -n 1 "$state/log"))"
dpkg-deb -x "$package"_*.deb "$dest"
