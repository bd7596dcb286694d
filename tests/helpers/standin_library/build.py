"""Builds the stand-in for TensorRT-RTX's library, and has the real Python bindings load it instead of the real one."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "standin.cpp"
RUNTIME, PARSER = "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"
PACKAGE = f"""import ctypes, pathlib
here = pathlib.Path(__file__).parent
ctypes.CDLL(str(here / "{PARSER}"), mode=ctypes.RTLD_GLOBAL)
LIBRARY = ctypes.CDLL(str(here / "{RUNTIME}"), mode=ctypes.RTLD_GLOBAL)
"""


def compiler():
    """A C++ compiler, or None."""
    return next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


def build(folder):
    """A folder to put first on Python's path: the package that the bindings take their libraries from is in it."""
    package = folder / "tensorrt_rtx_libs"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    for name, source in ((RUNTIME, SOURCE), (PARSER, None)):
        command = [compiler(), "-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-x", "c++"]
        command += [str(source or "/dev/null"), f"-Wl,-soname,{name}", "-o", str(package / name)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    return folder
