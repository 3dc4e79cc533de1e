"""GGUF files (llama.cpp), versions 2 and 3: metadata and lazily decoded tensors.

Format: ggml's `docs/gguf.md`; block layouts: ggml's `ggml-common.h`. Little-endian only.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from megan_jax.convert.tensors import BFLOAT16, LazyTensor, map_file, typed
from megan_jax.errors import UserError

MAGIC = b"GGUF"
_SCALARS = {
    0: "B",
    1: "b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_DEEPEST_ARRAY = 4
# Type number: its name, values per block, bytes per block.
_PLAIN = {0: ("F32", np.dtype("<f4")), 1: ("F16", np.dtype("<f2")), 30: ("BF16", BFLOAT16)}
_BLOCK = 32
_QUANTISED = {2: ("Q4_0", 18), 3: ("Q4_1", 20), 8: ("Q8_0", 34)}
_UNSUPPORTED = {
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}
_BLOCKS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True, eq=False)
class Gguf:
    """An opened GGUF file.

    Attributes:
      path: the file.
      metadata: key to value: int, float, bool, str, or a list of these.
      tensors: name (llama.cpp's spelling) to tensor; shapes in row-major order, `[out, in]`.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, LazyTensor]


def metadata(path: str | Path) -> dict[str, Any]:
    """The key-value section of a GGUF file, tokenizer fields included.

    Works for any tensor type, since no tensor is looked at.

    Raises:
      UserError: not a GGUF file, another version, or a malformed or truncated one.
    """
    path = Path(path)
    return _read_metadata(_Cursor(path, map_file(path)))[0]


def read_gguf(path: str | Path) -> Gguf:
    """Opens a GGUF file: metadata and the table of tensors, checked against the file's size.

    Raises:
      UserError: as `metadata`; or a tensor of an unsupported type, outside the file, overlapping
        another, or named twice.
    """
    path = Path(path)
    cursor = _Cursor(path, map_file(path))
    fields, count = _read_metadata(cursor)
    return Gguf(path, fields, _read_tensors(cursor, fields, count))


class _Cursor:
    """Reads little-endian values one after the other and never beyond the end."""

    def __init__(self, path: Path, data: np.ndarray):
        self.path, self.data, self.at = path, data, 0
        self.view = memoryview(data)

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what} Copy or download the file again.")

    def take(self, size: int, what: str) -> int:
        """Steps over `size` bytes and returns where they start."""
        start = self.at
        if size > len(self.view) - start:
            raise self.fail(
                f"the GGUF file is truncated or malformed: {what} needs {size} bytes at byte "
                f"{start}, the file has {len(self.view)}."
            )
        self.at = start + size
        return start

    def number(self, code: str, what: str) -> Any:
        start = self.take(struct.calcsize(code), what)
        return struct.unpack_from(code, self.view, start)[0]

    def string(self, what: str) -> str:
        size = self.number("<Q", what)
        start = self.take(size, what)
        try:
            return str(self.view[start : start + size], "utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 (byte {start + error.start}).") from error

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what, depth + 1)
        if kind not in _SCALARS:
            raise self.fail(f"{what} has the unknown value type {kind}.")
        return self.number(_SCALARS[kind], what)

    def array(self, what: str, depth: int) -> list[Any]:
        if depth > _DEEPEST_ARRAY:
            raise self.fail(f"{what} is an array nested more than {_DEEPEST_ARRAY} deep.")
        kind, length = self.number("<I", what), self.number("<Q", what)
        if kind in _SCALARS:
            code = _SCALARS[kind]
            size = struct.calcsize(code)
            start = self.take(length * size, what)
            dtype = np.dtype(bool if code == "?" else code)
            return typed(self.data[start : start + length * size], dtype).tolist()
        least = 8 if kind == _STRING else 12
        if length * least > len(self.view) - self.at:
            raise self.fail(
                f"the GGUF file is truncated or malformed: {what} claims {length} entries."
            )
        return [self.value(kind, what, depth) for _ in range(length)]


def _read_metadata(cursor: _Cursor) -> tuple[dict[str, Any], int]:
    """The key-value section and the number of tensors; leaves the cursor at the tensor table."""
    start = cursor.take(4, "the magic number")
    if bytes(cursor.view[start : start + 4]) != MAGIC:
        raise UserError(f"{cursor.path}: not a GGUF file (it does not start with 'GGUF').")
    version = cursor.number("<I", "the version")
    if version and version & 0xFFFF == 0:
        raise UserError(f"{cursor.path}: a big-endian GGUF file; only little-endian ones are read.")
    if version not in (2, 3):
        raise UserError(
            f"{cursor.path}: GGUF version {version}; versions 2 and 3 are read. Convert the "
            "original model again with a current llama.cpp."
        )
    tensors = cursor.number("<Q", "the number of tensors")
    count = cursor.number("<Q", "the number of metadata keys")
    fields: dict[str, Any] = {}
    for index in range(count):
        key = cursor.string(f"metadata key {index + 1} of {count}")
        if key in fields:
            raise cursor.fail(f"the metadata key {key!r} stands there twice.")
        what = f"the metadata value {key!r}"
        fields[key] = cursor.value(cursor.number("<I", what), what)
    return fields, tensors


def _read_tensors(cursor: _Cursor, fields: dict[str, Any], count: int) -> dict[str, LazyTensor]:
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise cursor.fail(f"general.alignment is {alignment!r}, not a power of two from 8 up.")
    described = []
    for index in range(count):
        what = f"the description of tensor {index + 1} of {count}"
        name = cursor.string(what)
        rank = cursor.number("<I", what)
        if not 1 <= rank <= 4:
            raise cursor.fail(f"tensor {name!r} has {rank} dimensions; 1 to 4 are possible.")
        dims = [cursor.number("<Q", what) for _ in range(rank)]
        kind, offset = cursor.number("<I", what), cursor.number("<Q", what)
        described.append((name, tuple(reversed(dims)), kind, offset))
    data_start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, LazyTensor] = {}
    regions = []
    for name, shape, kind, offset in described:
        if name in tensors:
            raise cursor.fail(f"tensor {name!r} stands there twice.")
        if 0 in shape:
            raise cursor.fail(f"tensor {name!r} is empty: shape {list(shape)}.")
        size = _byte_size(cursor, name, shape, kind)
        start, end = data_start + offset, data_start + offset + size
        if offset % alignment:
            raise cursor.fail(f"tensor {name!r} starts at {offset}, not aligned to {alignment}.")
        if end > len(cursor.data):
            raise cursor.fail(
                f"the file is truncated: tensor {name!r} {list(shape)} needs bytes {start} to "
                f"{end}, the file has {len(cursor.data)}."
            )
        regions.append((start, end, name))
        tensors[name] = _tensor(cursor.path, name, shape, kind, cursor.data[start:end])
    regions.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(regions):
        if start < end:
            raise cursor.fail(f"tensors {name!r} and {other!r} overlap.")
    return tensors


def _byte_size(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: int) -> int:
    count = math.prod(shape)
    if kind in _PLAIN:
        return count * _PLAIN[kind][1].itemsize
    if kind in _QUANTISED:
        if shape[-1] % _BLOCK:
            raise cursor.fail(
                f"tensor {name!r} is {_QUANTISED[kind][0]} with rows of {shape[-1]} values, not a "
                f"multiple of {_BLOCK}."
            )
        return count // _BLOCK * _QUANTISED[kind][1]
    readable = [name for name, _ in (*_PLAIN.values(), *_QUANTISED.values())]
    raise UserError(
        f"{cursor.path}: tensor {name!r} has the type {_UNSUPPORTED.get(kind, kind)}; "
        f"{', '.join(readable)} can be read. Take another quantisation of the same model."
    )


def _tensor(path: Path, name: str, shape: tuple[int, ...], kind: int, raw: np.ndarray):
    if kind in _PLAIN:
        stored, dtype = _PLAIN[kind]
        decode = functools.partial(_plain, shape=shape, dtype=dtype)
    else:
        stored, dtype = _QUANTISED[kind][0], np.dtype(np.float32)
        decode = functools.partial(dequantise, kind=stored, shape=shape)
    return LazyTensor(name, shape, dtype, stored, path, raw, decode)


def _plain(raw: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return typed(raw, dtype).reshape(shape)


def dequantise(raw: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Decodes blocks of 32 values to float32, a bounded number of blocks at a time.

    A block starts with a float16 scale d. Q8_0: 32 int8 q, value d·q. Q4_0: 16 bytes, value
    d·(q - 8). Q4_1: a float16 minimum m and 16 bytes, value d·q + m. In both 4-bit types the low
    halves of the bytes are values 0 to 15 and the high halves values 16 to 31.

    Args:
      raw: the blocks `[n]` uint8.
      kind: "Q8_0", "Q4_0" or "Q4_1".
      shape: of the result; its size is 32 times the number of blocks.
    """
    size = {name: size for name, size in _QUANTISED.values()}[kind]
    blocks = raw.reshape(-1, size)
    out = np.empty((len(blocks), _BLOCK), np.float32)
    for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = blocks[start : start + _BLOCKS_AT_ONCE]
        # Non-finite scales give non-finite values, as they do in llama.cpp.
        with np.errstate(invalid="ignore"):
            _dequantise_blocks(part, kind, out[start : start + _BLOCKS_AT_ONCE])
    return out.reshape(shape)


def _dequantise_blocks(blocks: np.ndarray, kind: str, into: np.ndarray) -> None:
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    if kind == "Q8_0":
        into[:] = blocks[:, 2:].view(np.int8)
        into *= scale
        return
    halves = blocks[:, -16:]
    into[:, :16] = halves & 0x0F
    into[:, 16:] = halves >> 4
    if kind == "Q4_0":
        into -= 8
        into *= scale
    else:
        into *= scale
        into += np.ascontiguousarray(blocks[:, 2:4]).view("<f2").astype(np.float32)
