"""Array types: what a numpy array holds, under one name everywhere. Shapes stand in the docstrings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
FloatArray = NDArray[np.floating]
Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]
Int8Array = NDArray[np.int8]
UInt32Array = NDArray[np.uint32]
UInt64Array = NDArray[np.uint64]
UInt8Array = NDArray[np.uint8]  # pixels, 0 to 255, RGB
BoolArray = NDArray[np.bool_]
