"""A tensor that stands in a file and is read only when somebody asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from megan_jax.errors import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_STRIPE = 64
FLOAT_DTYPES = (np.dtype("<f4"), BFLOAT16, np.dtype("<f2"), np.dtype("<f8"))


@dataclasses.dataclass(frozen=True, eq=False)
class LazyTensor:
    """One stored tensor: its description, and how to get its values.

    Attributes:
      name: its name in the file.
      shape: what `read` returns.
      dtype: what `read` returns; quantised tensors are decoded to float32.
      stored: the format's own word for the element type ("BF16", "Q4_1").
      file: where it stands, for messages.
      raw: its bytes `[n]` uint8, mapped from the file and not yet read.
      decode: turns `raw` into the array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: str
    file: Path
    raw: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]

    def read(self) -> np.ndarray:
        """The values. The array may be a view of the mapped file: copy what is kept."""
        return self.decode(self.raw)


def map_file(path: Path) -> np.ndarray:
    """Maps a file into memory, `[size]` uint8, read-only; nothing is read yet.

    Raises:
      UserError: no such file, an empty one, or one that can't be read.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file.")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty. Copy or download it again.")
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}.") from error


def typed(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Views bytes `[n]` as elements of `dtype`; copies only where the bytes are not aligned."""
    if raw.ctypes.data % dtype.itemsize:
        raw = raw.copy()
    return raw.view(dtype)


def identical(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether two stored tensors hold the same bits (the same NaNs included)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = a.read(), b.read()
    if first.ctypes.data == second.ctypes.data and first.strides == second.strides:
        return True
    bits = np.dtype(f"u{a.dtype.itemsize}")
    same = np.ascontiguousarray(first).view(bits) == np.ascontiguousarray(second).view(bits)
    return bool(same.all())


def widest(dtypes: set[np.dtype]) -> np.dtype:
    """The narrowest dtype that holds all of them exactly; bfloat16 with float16 is float32."""
    if len(dtypes) == 1:
        return next(iter(dtypes))
    return np.dtype(np.float64) if np.dtype(np.float64) in dtypes else np.dtype(np.float32)


def transpose_into(into: np.ndarray, matrix: np.ndarray) -> None:
    """Computes `into[...] = matrix.T`, converting, `[n, m]` from `[m, n]`.

    It goes in stripes that fit the cache: about five times faster for the matrices of a large
    model than the one assignment.
    """
    for start in range(0, len(matrix), _STRIPE):
        stripe = slice(start, start + _STRIPE)
        into[:, stripe] = matrix[stripe].T
