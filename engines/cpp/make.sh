#!/bin/sh
# Builds this folder into build/, and says what it built and what it did not find: `make cpp` runs it.
#
#     make.sh [PYTHON]      PYTHON has the onnxruntime wheel, whose library is linked
#
# Further words for cmake are taken from CMAKE_ARGS, as in CMAKE_ARGS="-DTensorRT_ROOT=/opt/TensorRT".
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${1:-}
missing=""

need() { # PACKAGE, and the test whether what it holds is there
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
includes() { echo "#include <$1>" | "${CXX:-c++}" -x c++ -std=c++20 -fsyntax-only -; }

need cmake command -v cmake
need make sh -c 'command -v make || command -v ninja'
need g++ command -v "${CXX:-c++}"
if command -v "${CXX:-c++}" >/dev/null 2>&1; then
    need nlohmann-json3-dev includes nlohmann/json.hpp
    need libssl-dev includes openssl/evp.h
else
    missing="$missing nlohmann-json3-dev libssl-dev"
fi
if [ -n "$missing" ]; then
    echo "make cpp: not installed:$missing; apt-get install$missing (and libboost1.81-dev zlib1g-dev for the server, libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc for its gRPC, libjpeg62-turbo-dev libpng-dev for images)" >&2
    exit 2
fi

mkdir -p "$here/build"
sh "$here/cmake/onnxruntime_headers.sh" "$here/build/onnxruntime" || true # it says why not; the rest is built
# shellcheck disable=SC2086 # several words
cmake -S "$here" -B "$here/build" -DPLAINCONV_PYTHON="$python" -DPLAINCONV_TESTS=OFF ${CMAKE_ARGS:-} >"$here/build/cmake.log" 2>&1 || {
    echo "make cpp: cmake failed; the end of engines/cpp/build/cmake.log:" >&2
    tail -n 5 "$here/build/cmake.log" >&2
    exit 1
}
cmake --build "$here/build" --parallel "$(getconf _NPROCESSORS_ONLN)"
grep -E '^-- (backends|tools|tests|bundle-serve|gRPC|images|ONNX Runtime|TensorRT|Could NOT)' "$here/build/cmake.log" | sed 's/^-- /make cpp: /'
