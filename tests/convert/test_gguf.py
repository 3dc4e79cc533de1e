"""GGUF: every block type against a plain encoder, and every kind of damage."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.convert import gguf
from megan_jax.errors import UserError
from tests.convert import builders


def write(tmp_path, data: bytes):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return path


def one_tensor(shape=(4, 64), kind="F32", metadata=None, **options) -> bytes:
    values = np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    raw, _ = builders.encode(values, kind)
    tensors = {"w": (shape, builders.GGUF_TYPES[kind], raw)}
    return builders.gguf_bytes(metadata or {}, tensors, **options)


@pytest.mark.parametrize("kind", builders.GGUF_TYPES)
@pytest.mark.parametrize("version", [2, 3])
def test_tensor_types_decode_to_what_was_encoded(tmp_path, kind, version):
    values = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    raw, expected = builders.encode(values, kind)
    tensors = {
        "first": ((3,), 0, np.arange(3, dtype=np.float32).tobytes()),
        "w": ((5, 96), builders.GGUF_TYPES[kind], raw),
    }
    opened = gguf.read_gguf(write(tmp_path, builders.gguf_bytes({}, tensors, version)))
    tensor = opened.tensors["w"]
    got = tensor.read()
    assert (tensor.shape, tensor.dtype, tensor.stored) == ((5, 96), expected.dtype, kind)
    assert got.dtype == expected.dtype
    assert got.tobytes() == expected.tobytes()
    # The encoder itself is right: a value is off by at most one step of its block.
    assert np.abs(got.astype(np.float32) - values).max() < 0.5
    np.testing.assert_array_equal(opened.tensors["first"].read(), [0, 1, 2])


def test_many_blocks_decode_as_one_by_one(tmp_path, monkeypatch):
    values = np.random.default_rng(1).normal(size=(11, 32)).astype(np.float32)
    raw, expected = builders.encode(values, "Q4_1")
    monkeypatch.setattr(gguf, "_BLOCKS_AT_ONCE", 4)
    np.testing.assert_array_equal(
        gguf.dequantise(np.frombuffer(raw, np.uint8), "Q4_1", (11, 32)), expected
    )


def test_metadata_of_every_kind(tmp_path):
    fields = {
        "a.count": 7,
        "a.negative": -3,
        "a.flag": True,
        "a.real": 0.5,
        "a.text": "naïve ▁",
        "a.tokens": ["<s>", "Ġthe", ""],
        "a.scores": [0.0, -1.5],
        "a.types": [-1, -2],
        "a.nested": [[1, 2], [3]],
    }
    path = write(tmp_path, builders.gguf_bytes(fields, {}))
    assert gguf.metadata(path) == fields
    assert gguf.read_gguf(path).metadata == fields


def test_metadata_needs_no_readable_tensors(tmp_path):
    data = builders.gguf_bytes({"k": "v"}, {"w": ((4, 256), 12, b"\0" * 576)})
    path = write(tmp_path, data)
    assert gguf.metadata(path) == {"k": "v"}
    with pytest.raises(UserError, match=r"tensor 'w' has the type Q4_K; F32, .* another quant"):
        gguf.read_gguf(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04 something else", "not a GGUF file"),
        (b"GG", "truncated or malformed: the magic number needs 4 bytes"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "GGUF version 1; versions 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "metadata key 1 of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "description of tensor 1 of"),
        (one_tensor(metadata={"general.alignment": 3}), "general.alignment is 3"),
        (one_tensor(metadata={"general.alignment": "x"}), "general.alignment is 'x'"),
        (one_tensor((2, 48), "Q8_0"), "rows of 48 values, not a multiple of 32"),
        (one_tensor()[:-5], "the file is truncated: tensor 'w'"),
    ],
)
def test_damage_is_named(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as caught:
        gguf.read_gguf(write(tmp_path, data))
    assert str(tmp_path / "model.gguf") in str(caught.value)


def described(*tensors, body=b"\0" * 256) -> bytes:
    """A file whose tensor table is given word for word: (name, dims, type, offset)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)
    for name, dims, kind, offset in tensors:
        out += builders.gguf_string(name)
        out += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return out + b"\0" * (-len(out) % 32) + body


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("w", (8,), 0, 0), ("w", (8,), 0, 32)], "'w' stands there twice"),
        ([("a", (16,), 0, 0), ("b", (8,), 0, 32)], "tensors 'a' and 'b' overlap"),
        ([("w", (8,), 0, 4)], "not aligned to 32"),
        ([("w", (8,), 0, 2**63)], "the file is truncated"),
        ([("w", (2**40, 2**40), 0, 0)], "the file is truncated"),
        ([("w", (0, 4), 0, 0)], "'w' is empty"),
        ([("w", (), 0, 0)], "0 dimensions"),
        ([("w", (1,) * 5, 0, 0)], "5 dimensions"),
        ([("w", (8,), 99, 0)], "has the type 99"),
        ([(b"\xff\xfe", (8,), 0, 0)], "not UTF-8"),
    ],
)
def test_a_hostile_tensor_table_is_refused(tmp_path, tensors, message):
    with pytest.raises(UserError, match=message):
        gguf.read_gguf(write(tmp_path, described(*tensors)))


def with_value(value: bytes, key: str = "k") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + builders.gguf_string(key) + value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (struct.pack("<I", 77), "'k' has the unknown value type 77"),
        (struct.pack("<IQ", 8, 2**62), "'k' needs 4611686018427387904 bytes"),
        (struct.pack("<IIQ", 9, 8, 2**62), "'k' claims 4611686018427387904 entries"),
        (struct.pack("<IIQ", 9, 5, 2**62), "truncated or malformed"),
        (struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50, "nested more than 4 deep"),
        (struct.pack("<I", 8) + builders.gguf_string(b"\xc3("), "'k' is not UTF-8"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        gguf.metadata(write(tmp_path, with_value(value)))


def test_a_key_that_stands_there_twice(tmp_path):
    pair = builders.gguf_string("k") + builders.gguf_value(1)
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair + pair
    with pytest.raises(UserError, match="metadata key 'k' stands there twice"):
        gguf.metadata(write(tmp_path, data))


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        gguf.read_gguf(tmp_path / "none.gguf")
    with pytest.raises(UserError, match="the file is empty"):
        gguf.read_gguf(write(tmp_path, b""))


WHOLE = one_tensor((4, 64), "Q4_1", {"general.name": "tiny", "t": ["a", "bc"], "n": [1, 2, 3]})


@given(cut=st.integers(1, len(WHOLE) - 1))
def test_every_truncation_is_a_user_error(tmp_path_factory, cut):
    path = write(tmp_path_factory.mktemp("cut"), WHOLE[:cut])
    with pytest.raises(UserError):
        gguf.read_gguf(path)


@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_exception(tmp_path_factory, at, value):
    data = bytearray(WHOLE)
    data[at] = value
    path = write(tmp_path_factory.mktemp("bit"), bytes(data))
    try:
        opened = gguf.read_gguf(path)
    except UserError:
        return
    for tensor in opened.tensors.values():
        assert tensor.read().shape == tensor.shape
