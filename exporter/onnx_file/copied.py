"""An ONNX file copied as it is, with the files that its weights lie in."""

import filecmp
import shutil
from pathlib import Path

import onnx
from onnx import TensorProto

from ..errors import ExportError
from .external import place
from .held import inner_tensors


def copy(source: Path, target: Path) -> Path:
    """Copy an ONNX file to `target`, and the files that its weights lie in beside it; no more than one appears at once.

    Raises:
        ExportError: it cannot be written; `target` lies in another folder that has another file of the name of one
            with weights.

    """
    proto = onnx.load(source, load_external_data=False)
    tensors = [*proto.graph.initializer, *inner_tensors(proto)]
    beside = {place(t, source)[0] for t in tensors if t.data_location == TensorProto.EXTERNAL}
    del proto, tensors
    moves = [] if target.parent.resolve() == source.parent.resolve() else sorted(beside)
    root = source.parent.resolve()
    try:
        for file in moves:
            wanted = target.parent / file.relative_to(root)
            if wanted.exists():
                if not filecmp.cmp(file, wanted, shallow=False):
                    raise ExportError(f"{wanted} is in the way; choose an empty folder")
                continue
            wanted.parent.mkdir(parents=True, exist_ok=True)
            _copy(file, wanted)
        if not target.exists() or not source.samefile(target):
            _copy(source, target)
    except OSError as error:
        remedy = "free space, or choose another place"
        raise ExportError(f"{target}: cannot be written ({error.strerror or error}); {remedy}") from None
    return target


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
