#!/bin/sh
# The images' build steps, in a clean Debian 12 or in a container's layer.
#   build.sh python WHEEL [EXTRAS]    the Python server, into /opt/plainconv; EXTRAS: serve,gpu unless given
#   build.sh cpp SOURCE               the C++ server and ONNX Runtime, into /usr/local, from a folder with engines/cpp
#   build.sh libraries                what those two need of Debian where they run
# The first and the last make the user that serves.
set -eu

what=$1
where=${2:-}
onnxruntime='onnxruntime>=1.23,<2'
export DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

packages() {
    apt-get update
    apt-get install --yes --no-install-recommends "$@"
}

user() {
    getent passwd 1000 >/dev/null || useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin plainconv
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
    user
    ;;
cpp)
    packages cmake g++ make pkg-config python3-venv libboost1.81-dev zlib1g-dev nlohmann-json3-dev libssl-dev \
        libjpeg62-turbo-dev libpng-dev libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
    python3 -m venv /tmp/wheel
    /tmp/wheel/bin/pip install --no-deps "$onnxruntime"
    sh "$where/engines/cpp/cmake/onnxruntime_headers.sh" /tmp/headers
    cmake -S "$where/engines/cpp" -B /tmp/build -DCMAKE_BUILD_TYPE=Release -DCMAKE_SKIP_RPATH=ON -DPLAINCONV_TESTS=OFF \
        -DPLAINCONV_PYTHON=/tmp/wheel/bin/python \
        -DONNXRUNTIME_INCLUDE_DIR=/tmp/headers/usr/include/onnxruntime
    cmake --build /tmp/build --parallel "$(nproc)" --target bundle-serve
    install -s /tmp/build/bundle-serve /usr/local/bin/
    install -m 644 /tmp/build/onnxruntime-*/libonnxruntime.so.1 /usr/local/lib/
    rm -rf /tmp/build /tmp/headers /tmp/wheel
    ;;
libraries)
    packages libgrpc++1.51 libjpeg62-turbo libpng16-16 libssl3 zlib1g
    ldconfig
    user
    ;;
*)
    echo "build.sh: $what is none of python, cpp, libraries" >&2
    exit 2
    ;;
esac
