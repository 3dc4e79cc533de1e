"""The few array operations that loading and saving lean on."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.convert import tensors


@given(rows=st.integers(1, 200), columns=st.integers(1, 40))
def test_transposed_in_stripes_is_transposed(rows, columns):
    matrix = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    into = np.empty((columns, rows), np.float64)
    tensors.transpose_into(into, matrix)
    np.testing.assert_array_equal(into, matrix.T)


def lazy(values: np.ndarray) -> tensors.LazyTensor:
    raw = np.zeros(0, np.uint8)
    return tensors.LazyTensor(
        "x", values.shape, values.dtype, "?", Path("x"), raw, lambda _: values
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_identical_compares_bits(dtype):
    a = np.array([[1, np.nan], [0, 2]]).astype(dtype)
    negative_zero = np.array([[1, np.nan], [-0.0, 2]]).astype(dtype)
    assert tensors.identical(lazy(a), lazy(a.copy()))
    assert tensors.identical(lazy(a.T), lazy(np.ascontiguousarray(a.T)))
    assert not tensors.identical(lazy(a), lazy(negative_zero))
    assert not tensors.identical(lazy(a), lazy(a.T))
    assert not tensors.identical(lazy(a), lazy(a.reshape(4)))
    other = np.float64 if dtype != np.float64 else np.float32
    assert not tensors.identical(lazy(a), lazy(a.astype(other)))


def test_typed_reads_at_any_offset():
    raw = np.frombuffer(b"\x00" + np.array([1.5, -2], "<f4").tobytes() + b"\x00" * 3, np.uint8)
    np.testing.assert_array_equal(tensors.typed(raw[1:9], np.dtype("<f4")), [1.5, -2])
