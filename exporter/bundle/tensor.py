"""What a tensor is: of a network, between its parts, and in what is said of images."""

from dataclasses import dataclass

DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")
PART_DTYPES = (*DTYPES, "float8_e4m3fn")


def slice_words(axis: int | None, index: int | None) -> str:
    """A slice as NumPy would write it, "[:, 4]" of axis 1; "" for the whole."""
    return "" if axis is None or index is None else f"[{':, ' * axis}{index}]"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its dtype as NumPy spells it, and its shape with symbolic axes as strings."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"
