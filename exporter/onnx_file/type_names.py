"""What the type of a value is called: as NumPy spells it, and where it has none of its own as ml_dtypes does."""

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto


def type_name(tensor: Any) -> str:
    """Of a value of a `gs.Graph`, which gives ONNX's number where NumPy has no type; "no tensor" of another value."""
    found = tensor.dtype
    if found is None:
        return "no tensor"
    return str(TensorProto.DataType.Name(found).lower() if isinstance(found, int) else np.dtype(found).name)


def dtype_of(name: str | np.dtype) -> np.dtype:
    """The dtype of this name, ml_dtypes' bfloat16 among them."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
