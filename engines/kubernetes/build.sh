#!/bin/sh
# The image's build steps, in a clean Debian 12 or in a container's layer: Python, the package with EXTRAS, and a user.
#   build.sh python WHEEL [EXTRAS]    the Python server, into /opt/plainconv; EXTRAS: serve,gpu unless given
#   build.sh cpp SOURCE               the C++ server, into /usr/local/bin, from a folder with engines/cpp
set -eu

what=$1
where=$2
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

packages() {
    apt-get update
    apt-get install --yes --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/*
}

serving() {  # of the package's requirements those of a server: torch, and whatever else only exports, stays out
    /opt/plainconv/bin/python - "$1" <<'EOF'
import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

extras = sys.argv[1].split(",")
always = {"numpy", "rich"} | ({"tensorrt-rtx"} if "gpu" in extras else set())
for each in map(Requirement, requires("plainconv")):
    of_extra = each.marker is not None and "extra" in str(each.marker)
    if any(each.marker.evaluate({"extra": extra}) for extra in extras) if of_extra else each.name in always:
        print(f"{each.name}{'[' + ','.join(sorted(each.extras)) + ']' if each.extras else ''}{each.specifier}")
EOF
}

case $what in
python)
    packages python3 python3-venv
    python3 -m venv /opt/plainconv
    /opt/plainconv/bin/pip install --no-deps "$where"
    serving "${3:-serve,gpu}" >/tmp/requirements.txt
    /opt/plainconv/bin/pip install -r /tmp/requirements.txt
    rm /tmp/requirements.txt
    /opt/plainconv/bin/python -m compileall -q /opt/plainconv/lib || true  # the root is read-only later
    ln -sf /opt/plainconv/bin/exporter /usr/local/bin/exporter
    ;;
cpp)
    packages cmake g++ make pkg-config libboost1.81-dev zlib1g-dev nlohmann-json3-dev libssl-dev \
        libjpeg62-turbo-dev libpng-dev libgrpc++-dev libprotobuf-dev protobuf-compiler
    cmake -S "$where/engines/cpp" -B /tmp/build -DCMAKE_BUILD_TYPE=Release
    cmake --build /tmp/build --parallel
    find /tmp/build -maxdepth 1 -type f -executable -name 'bundle-serve*' -exec install -m 755 {} /usr/local/bin/ \;
    rm -rf /tmp/build
    ;;
*)
    echo "build.sh: $what is none of python, cpp" >&2
    exit 2
    ;;
esac

getent passwd 1000 >/dev/null || useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin plainconv
