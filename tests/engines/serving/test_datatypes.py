"""The protocol's names of data types."""

import ml_dtypes
import numpy as np
import pytest

from plainconv.engines.serving.datatypes import datatype_of, datatype_of_dtype, dtype_of_datatype
from plainconv.engines.serving.refusals import BadRequestError

NAMES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@pytest.mark.parametrize(("datatype", "dtype"), NAMES.items())
def test_there_and_back(datatype: str, dtype: type) -> None:
    found = dtype_of_datatype("x", datatype)
    assert found == np.dtype(dtype) and datatype_of(found.name) == datatype_of_dtype(np.dtype(dtype)) == datatype


@pytest.mark.parametrize("datatype", ["BYTES", "fp32", "", None, 7, ["FP32"], {"a": 1}])
def test_no_datatype(datatype: object) -> None:
    with pytest.raises(BadRequestError, match=r"input 'x' has datatype .*, wanted one of BOOL, UINT8"):
        dtype_of_datatype("x", datatype)
