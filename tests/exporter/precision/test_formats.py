"""Names of precisions, and what follows from them."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from plainconv.exporter.errors import ExportError
from plainconv.exporter.precision import NAMES, TOLERANCES, Precision, precision_of_name
from plainconv.exporter.precision.formats import FLOATS, QUANTIZED


@pytest.mark.parametrize("name", NAMES)
def test_name_survives(name):
    assert precision_of_name(name).name == name


@pytest.mark.parametrize("name", ["", "fp64", "int8+", "+fp16", "fp16+int8", "int8+fp32", "int8+fp8", "FP16", "int8 "])
def test_other_names_are_refused_in_one_line(name):
    with pytest.raises(ExportError, match="wanted one of fp32, fp16, bf16, int8") as raised:
        precision_of_name(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "parts", "opset"),
    [
        ("fp32", (None, "fp32"), 1),
        ("fp16", (None, "fp16"), 1),
        ("bf16", (None, "bf16"), 22),
        ("int8", ("int8", "fp32"), 13),
        ("int8+fp16", ("int8", "fp16"), 19),
        ("int8+bf16", ("int8", "bf16"), 22),
        ("fp8", ("fp8", "fp32"), 19),
        ("fp8+bf16", ("fp8", "bf16"), 22),
    ],
)
def test_parts_and_opset(name, parts, opset):
    """Given a name → its parts, and the first opset whose Conv and Q/DQ take the types, by ONNX's own schemas."""
    precision = precision_of_name(name)
    assert (precision.quantized, precision.rest) == parts
    assert precision.min_opset == opset
    rest = ir.DataType.FLOAT if precision.rest == "fp32" else FLOATS[precision.rest]
    wanted = [("Conv", rest)]
    if precision.quantized:
        stored = QUANTIZED[precision.quantized].dtype
        wanted += [("DequantizeLinear", stored), ("DequantizeLinear", rest), ("QuantizeLinear", rest)]
    assert all(takes(op, opset, dtype) for op, dtype in wanted)
    if opset > 1:
        assert not all(takes(op, opset - 1, dtype) for op, dtype in wanted)


def takes(op, opset, dtype):
    """Whether the op has the type, and the axis of a channel's scale."""
    schema = onnx.defs.get_schema(op, opset, "")
    kind = f"tensor({dtype.name.lower()})"
    known = {t for c in schema.type_constraints for t in c.allowed_type_strs} | {i.type_str for i in schema.inputs}
    return kind in known and (op == "Conv" or "axis" in schema.attributes)


def test_tolerance_is_the_wider_of_the_two():
    assert Precision("int8", "fp16").tolerance == max(TOLERANCES["int8"], TOLERANCES["fp16"])
    assert Precision(None, "fp16").tolerance == TOLERANCES["fp16"]
    assert Precision(None, "fp32").tolerance == 0


def test_largest_is_what_the_type_holds():
    assert QUANTIZED["int8"].largest == np.iinfo(np.int8).max
    assert QUANTIZED["fp8"].largest == float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
