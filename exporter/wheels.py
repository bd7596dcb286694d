"""Which ONNX Runtime is installed. Two wheels hold it under one name, `onnxruntime` and `onnxruntime-gpu`."""

import importlib.metadata

INSTALL = "pip install 'plainconv[cpu]', or 'plainconv[gpu]' on a machine with an NVIDIA GPU"
_WHEELS = ("onnxruntime", "onnxruntime-gpu")


def collision() -> str | None:
    """What to say where both are installed: each has overwritten files of the other. None where they are not."""
    if not all(_installed(wheel) for wheel in _WHEELS):
        return None
    remedy = "pip uninstall both, then pip install 'plainconv[gpu]' for a GPU or 'plainconv[cpu]' for none"
    return f"{' and '.join(_WHEELS)} are both installed, and each has overwritten files of the other; {remedy}"


def missing(error: ImportError) -> str:
    """What to say where ONNX Runtime cannot be imported."""
    if found := collision():
        return found
    return f"ONNX Runtime cannot be imported ({error}); {INSTALL}"


def _installed(wheel: str) -> bool:
    try:
        importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
