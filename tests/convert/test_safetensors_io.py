"""Safetensors: against the official library in both directions, and every kind of damage."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from megan_jax.convert.names import Described
from megan_jax.convert.safetensors_io import open_safetensors, write_safetensors
from megan_jax.errors import UserError
from tests.convert import builders

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.0], np.float16),
    "wide": np.array([[1e300]], np.float64),
    "long": np.array([2**40, -1], np.int64),
    "flag": np.array([True, False, True]),
    "scalar": np.array(3, np.int32),
    "empty": np.zeros((0, 4), np.float32),
}


def described(arrays: dict[str, np.ndarray]) -> list[Described]:
    return [
        Described(name, array.shape, array.dtype, lambda array=array: array)
        for name, array in arrays.items()
    ]


def test_reads_what_the_library_writes(tmp_path):
    save_file(ARRAYS, tmp_path / "x.safetensors")
    opened = open_safetensors(tmp_path / "x.safetensors")
    assert set(opened) == set(ARRAYS)
    for name, array in ARRAYS.items():
        got = opened[name].read()
        assert (got.dtype, got.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(got, array)


def test_the_library_reads_what_is_written(tmp_path):
    write_safetensors(tmp_path, described(ARRAYS))
    loaded = load_file(tmp_path / "model.safetensors")
    assert set(loaded) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_bfloat16_bits_survive(tmp_path):
    bits = np.array([0x3F80, 0x7FC1, 0x8000, 0x0001], np.uint16)
    write_safetensors(tmp_path, described({"x": bits.view(ml_dtypes.bfloat16)}))
    tensor = open_safetensors(tmp_path / "model.safetensors")["x"]
    assert tensor.stored == "BF16"
    np.testing.assert_array_equal(tensor.read().view(np.uint16), bits)


def test_unaligned_tensors_read_right(tmp_path):
    body = b"\x01" + np.array([1.5, 2.5], np.float32).tobytes()
    header = {
        "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "f": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(builders.safetensors_bytes(header, body))
    np.testing.assert_array_equal(open_safetensors(path)["f"].read(), [1.5, 2.5])


def test_shards_and_their_index(tmp_path):
    arrays = {f"t{i}": np.full(10, i, np.float32) for i in range(5)}
    files = write_safetensors(tmp_path, described(arrays), max_shard_bytes=80)
    assert [file.name for file in files] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    for name, array in arrays.items():
        np.testing.assert_array_equal(load_file(tmp_path / index["weight_map"][name])[name], array)
    assert all(file.stat().st_size <= 80 + 400 for file in files)


def test_tensors_are_read_one_at_a_time_while_writing(tmp_path):
    alive = []

    def read(name):
        alive.append(name)
        return np.zeros(4, np.float32)

    tensors = [Described(n, (4,), np.dtype(np.float32), lambda n=n: read(n)) for n in ("a", "b")]
    write_safetensors(tmp_path, iter(tensors), max_shard_bytes=16)
    assert alive == ["a", "b"]


@pytest.mark.parametrize("size", [0, -5])
def test_shard_size_must_be_positive(tmp_path, size):
    with pytest.raises(UserError, match="at least 1 byte"):
        write_safetensors(tmp_path, described(ARRAYS), max_shard_bytes=size)


def test_a_dtype_without_a_spelling(tmp_path):
    with pytest.raises(UserError, match="z: safetensors has no dtype complex64"):
        write_safetensors(tmp_path, described({"z": np.zeros(2, np.complex64)}))


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


EIGHT = b"\0" * 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01\x02", "2 bytes are not even a header length"),
        ((10**6).to_bytes(8, "little") + b"{}", "the header should have 1000000 bytes"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "truncated, or not a safetensors file"),
        (builders.safetensors_bytes(b"{not json", b""), "the header is not JSON"),
        (builders.safetensors_bytes(b"\xff\xfe{}", b""), "the header is not JSON"),
        (builders.safetensors_bytes(b"[" * 100_000, b""), "the header is not JSON"),
        (builders.safetensors_bytes([1], b""), "not a JSON object"),
        (builders.safetensors_bytes({"w": 3}, b""), "'w': its description is not"),
        (builders.safetensors_bytes({"w": entry("F99")}, EIGHT), "'w' has the unknown dtype 'F99'"),
        (builders.safetensors_bytes({"w": {"shape": [2]}}, EIGHT), "unknown dtype None"),
        (builders.safetensors_bytes({"w": entry(shape=(-2,))}, EIGHT), "'w': its shape"),
        (builders.safetensors_bytes({"w": entry(shape=(2.0,))}, EIGHT), "'w': its shape"),
        (builders.safetensors_bytes({"w": entry(shape=(True,))}, EIGHT), "'w': its shape"),
        (builders.safetensors_bytes({"w": entry(shape=(1,) * 17)}, EIGHT), "'w': its shape"),
        (builders.safetensors_bytes({"w": entry(begin=8, end=0)}, EIGHT), "'w': its data_offsets"),
        (builders.safetensors_bytes({"w": entry(begin=-8)}, EIGHT), "'w': its data_offsets"),
        (builders.safetensors_bytes({"w": entry(end=16)}, EIGHT), "truncated: tensor 'w' ends at"),
        (builders.safetensors_bytes({"w": entry(shape=(3,))}, EIGHT), "'w': F32 .3. takes 12"),
        (builders.safetensors_bytes({"w": entry(shape=(2**62, 2**62))}, EIGHT), "takes"),
        (builders.safetensors_bytes({"w": entry()}, EIGHT * 2), "8 bytes after the last tensor"),
        (
            builders.safetensors_bytes({"w": entry(begin=8, end=16)}, EIGHT * 2),
            "8 bytes before tensor 'w' belong to none",
        ),
        (
            builders.safetensors_bytes({"w": entry(), "v": entry(begin=4, end=12)}, b"\0" * 12),
            "the tensors 'w' and 'v' overlap",
        ),
        (
            builders.safetensors_bytes(b'{"w":' + json.dumps(entry()).encode() + b',"w":3}', EIGHT),
            "names 'w' twice",
        ),
    ],
)
def test_damage_is_named(tmp_path, data, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        open_safetensors(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        open_safetensors(tmp_path / "none.safetensors")


WHOLE = builders.safetensors_bytes(
    {"w": entry(), "v": entry("BF16", (2, 2), 8, 16)}, bytes(range(16))
)


@given(cut=st.integers(1, len(WHOLE) - 1))
def test_every_truncation_is_a_user_error(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "x.safetensors"
    path.write_bytes(WHOLE[:cut])
    with pytest.raises(UserError):
        open_safetensors(path)


@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_exception(tmp_path_factory, at, value):
    data = bytearray(WHOLE)
    data[at] = value
    path = tmp_path_factory.mktemp("bit") / "x.safetensors"
    path.write_bytes(bytes(data))
    try:
        opened = open_safetensors(path)
    except UserError:
        return
    for tensor in opened.values():
        assert tensor.read().shape == tensor.shape
