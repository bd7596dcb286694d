"""The bundle: one folder that holds a network as ONNX, its engines, and the evidence that both are right.

`exporter/BUNDLE.md` specifies it exactly. `Bundle.open` verifies and reads one; `write_bundle` and `update_bundle`
write one, all or nothing.
"""

from .codec import plain_json
from .manifest import (
    FORMAT_VERSION,
    MANIFEST,
    MODEL,
    MODEL_DATA,
    EngineRecord,
    FileRecord,
    GraphRecord,
    JsonObject,
    Link,
    Manifest,
    PartRecord,
    ShapeRange,
    SplitRecord,
    sha256_of_arrays,
    sha256_of_files,
)
from .postprocessing import Postprocessing, classes_of, default_of
from .preprocessing import Letterbox, Preprocessing, Resize
from .reader import Bundle, identity, read_manifest, sha256_of_file
from .tensor import DTYPES, TensorSpec, slice_words
from .whole_file import write_whole
from .writer import Draft, check_target, update_bundle, write_bundle

__all__ = [
    "DTYPES",
    "FORMAT_VERSION",
    "MANIFEST",
    "MODEL",
    "MODEL_DATA",
    "Bundle",
    "Draft",
    "EngineRecord",
    "FileRecord",
    "GraphRecord",
    "JsonObject",
    "Letterbox",
    "Link",
    "Manifest",
    "PartRecord",
    "Postprocessing",
    "Preprocessing",
    "Resize",
    "ShapeRange",
    "SplitRecord",
    "TensorSpec",
    "check_target",
    "classes_of",
    "default_of",
    "identity",
    "plain_json",
    "read_manifest",
    "sha256_of_arrays",
    "sha256_of_file",
    "sha256_of_files",
    "slice_words",
    "update_bundle",
    "write_bundle",
    "write_whole",
]
