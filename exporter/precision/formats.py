"""The precisions a graph can be given, and what each may cost."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..errors import ExportError

FLOATS = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
"""The types that every value of a network can be in."""


@dataclass(frozen=True)
class Quantized:
    """A type that the inputs and weights of convs and matrix products are rounded to: value ≈ scale · stored."""

    dtype: ir.DataType
    numpy: np.dtype
    largest: float
    opset: int


QUANTIZED = {
    "int8": Quantized(ir.DataType.INT8, np.dtype(np.int8), 127.0, 13),
    "fp8": Quantized(ir.DataType.FLOAT8E4M3FN, np.dtype(ml_dtypes.float8_e4m3fn), 448.0, 19),
}

TOLERANCES = {"fp16": 0.03, "bf16": 0.15, "int8": 0.3, "fp8": 0.4}
"""The most that the RMS error of an output's part may be, in units of its spread over images.

Half of every number, and any constant, is off by 0.5 and more. Of a trained detector with boxes in pixels beside
scores, whose mean average precision no precision costs more than 2 %, fp16 is off by 0.007, int8 and fp8 by 0.13;
on a dozen images the worst class of a trained classifier by twice that.
"""

NAMES = ("fp32", "fp16", "bf16", "int8", "int8+fp16", "int8+bf16", "fp8", "fp8+fp16", "fp8+bf16")


@dataclass(frozen=True)
class Precision:
    """What a graph computes in: `quantized` what its convs and matrix products read, `rest` everything else."""

    quantized: str | None
    rest: str

    @property
    def name(self) -> str:
        """As the user writes it: "fp16", "int8", "int8+fp16"."""
        return "+".join(part for part in (self.quantized, self.rest) if part and part != "fp32") or "fp32"

    @property
    def tolerance(self) -> float:
        """What an output's RMS error may be, in units of its spread."""
        return max((TOLERANCES[part] for part in (self.quantized, self.rest) if part in TOLERANCES), default=0.0)

    @property
    def min_opset(self) -> int:
        """The first ONNX operator set in which convs, and Q/DQ with their scales, take the types."""
        opset = QUANTIZED[self.quantized].opset if self.quantized else 1
        if self.quantized and self.rest != "fp32":
            opset = max(opset, 19)
        return max(opset, 22) if self.rest == "bf16" else opset


def precision_of_name(name: str) -> Precision:
    """The precision that a user calls `name`. Raises ExportError for another name."""
    if name not in NAMES:
        raise ExportError(f"unknown precision {name!r}; wanted one of {', '.join(NAMES)}")
    first, _, second = name.partition("+")
    return Precision(first, second or "fp32") if first in QUANTIZED else Precision(None, first)
