"""Faults planted in a bundle's graphs, every hash as if it had been made so."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def planted(bundle: Path, target: Path, file: str, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """The bundle with one of its graphs edited, every hash as if it had been made so."""
    shutil.copytree(bundle, target)
    old = (target / file).read_bytes()
    model = onnx.load_from_string(old)
    edit(model)
    new = model.SerializeToString()
    assert new != old
    (target / file).write_bytes(new)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"][file]["size"] = len(new)
    text = json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    text = text.replace(hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest())
    text = re.sub(r'(?m)^(  "manifest_sha256": ")[0-9a-f]{64}', rf"\g<1>{'0' * 64}", text)
    own = hashlib.sha256(text.encode()).hexdigest()
    (target / "manifest.json").write_text(text.replace("0" * 64, own, 1))
    return target


def change(model: onnx.ModelProto, name: str, edit: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Edit an initializer in place."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    result = edit(array)
    tensor.CopyFrom(numpy_helper.from_array(array if result is None else result.astype(array.dtype), name))


def attribute(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    for found in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(found)
    node.attribute.append(onnx.helper.make_attribute(name, values))
