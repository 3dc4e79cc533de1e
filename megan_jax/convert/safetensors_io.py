"""Safetensors files: read lazily after checking the header, written tensor by tensor in shards.

Format: an unsigned 64-bit length n, n bytes of JSON that describe the tensors, then their bytes.
Every byte of the data belongs to exactly one tensor.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes
import numpy as np

from megan_jax.convert.tensors import LazyTensor, map_file, typed
from megan_jax.errors import UserError

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_SPELLING = {dtype: name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000
_MOST_DIMENSIONS = 16
DEFAULT_SHARD_BYTES = 5 * 10**9


class Writable(Protocol):
    """What can be written: a described tensor whose values come when `read` is called."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def read(self) -> Callable[[], np.ndarray]: ...


def open_safetensors(path: str | Path) -> dict[str, LazyTensor]:
    """Opens a file: its whole header is checked, no tensor is read.

    Raises:
      UserError: no such file, a truncated or malformed one, or a header that does not describe
        the data; the message names the file and the tensor.
    """
    path = Path(path)
    data = map_file(path)
    if len(data) < 8:
        raise _broken(path, f"truncated: {len(data)} bytes are not even a header length")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(_LONGEST_HEADER, len(data) - 8):
        raise _broken(
            path,
            f"truncated, or not a safetensors file: the header should have {length} bytes, the "
            f"file has {len(data)}",
        )
    header = _parse(path, data[8 : 8 + length].tobytes())
    body = data[8 + length :]
    tensors: dict[str, LazyTensor] = {}
    regions = []
    for name, description in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _check_description(path, name, description, len(body))
        regions.append((begin, end, name))
        decode = functools.partial(_decode, dtype=dtype, shape=shape)
        stored = description["dtype"]
        tensors[name] = LazyTensor(name, shape, dtype, stored, path, body[begin:end], decode)
    regions.sort()
    reached, before = 0, ""
    for begin, end, name in regions:
        if begin < reached:
            raise _broken(path, f"the tensors {before!r} and {name!r} overlap")
        if begin > reached:
            raise _broken(path, f"{begin - reached} bytes before tensor {name!r} belong to none")
        reached, before = end, name
    if reached != len(body):
        raise _broken(path, f"{len(body) - reached} bytes after the last tensor belong to none")
    return tensors


def _broken(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}. Copy or download the file again.")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in pairs:
            if name in fields:
                raise _broken(path, f"the header names {name!r} twice")
            fields[name] = value
        return fields

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "the header is not a JSON object")
    return header


def _check_description(
    path: Path, name: str, description: Any, size: int
) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Checks one header entry; returns dtype, shape, and where its bytes begin and end."""
    if not isinstance(description, dict):
        raise _broken(path, f"tensor {name!r}: its description is not a JSON object")
    stored, shape = description.get("dtype"), description.get("shape")
    offsets = description.get("data_offsets")
    if not isinstance(stored, str) or stored not in DTYPES:
        raise UserError(
            f"{path}: tensor {name!r} has the unknown dtype {repr(stored)[:80]}; known are "
            f"{', '.join(DTYPES)}."
        )
    if not _are_sizes(shape):
        raise _broken(path, f"tensor {name!r}: its shape {repr(shape)[:80]} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(
            path, f"tensor {name!r}: its data_offsets {repr(offsets)[:80]} are not [begin, end]"
        )
    begin, end = offsets
    if end > size:
        raise _broken(
            path, f"truncated: tensor {name!r} ends at byte {end} of the data, which has {size}"
        )
    needed = math.prod(shape) * DTYPES[stored].itemsize
    if needed != end - begin:
        raise _broken(
            path,
            f"tensor {name!r}: {stored} {shape} takes {needed} bytes, its data_offsets span "
            f"{end - begin}",
        )
    return DTYPES[stored], tuple(shape), begin, end


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        return False
    return all(type(entry) is int and 0 <= entry < 2**63 for entry in value)


def _decode(raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return typed(raw, dtype).reshape(shape)


def write_safetensors(
    folder: Path, tensors: Iterable[Writable], max_shard_bytes: int = DEFAULT_SHARD_BYTES
) -> list[Path]:
    """Writes tensors into `folder`, one at a time, as Hugging Face names the files.

    One shard is `model.safetensors`; several are `model-0000x-of-0000y.safetensors` with an index.

    Args:
      folder: an existing folder; see `megan_jax.convert.save.new_folder` for all-or-nothing.
      tensors: described tensors; each is read when its turn comes.
      max_shard_bytes: of tensor data per file; a larger tensor gets a file of its own.

    Raises:
      UserError: a dtype that safetensors does not have, or a shard size below one byte.
      OSError: a full disk or a folder that can't be written.
    """
    if max_shard_bytes < 1:
        raise UserError(f"The shard size must be at least 1 byte, got {max_shard_bytes}.")
    shards: list[list[Writable]] = [[]]
    filled = total = 0
    for tensor in tensors:
        if np.dtype(tensor.dtype) not in _SPELLING:
            raise UserError(f"{tensor.name}: safetensors has no dtype {tensor.dtype}.")
        size = _size(tensor)
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += size
        total += size
    if len(shards) == 1:
        _write_file(folder / "model.safetensors", shards[0])
        return [folder / "model.safetensors"]
    files, places = [], {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(file, shard)
        files.append(file)
        places.update({tensor.name: file.name for tensor in shard})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return files


def _size(tensor: Writable) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _write_file(path: Path, tensors: Sequence[Writable]) -> None:
    # Wide elements first, so that every tensor starts at a multiple of its element size.
    ordered = sorted(tensors, key=lambda tensor: -np.dtype(tensor.dtype).itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in ordered:
        end = at + _size(tensor)
        header[tensor.name] = {
            "dtype": _SPELLING[np.dtype(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in ordered:
            _write_values(file, tensor)
        file.flush()
        os.fsync(file.fileno())


def _write_values(file: BinaryIO, tensor: Writable) -> None:
    values = np.asarray(tensor.read())
    if values.shape != tuple(tensor.shape) or values.dtype != tensor.dtype:
        raise ValueError(
            f"{tensor.name}: described as {tensor.dtype} {tensor.shape}, read as "
            f"{values.dtype} {values.shape}"
        )
    flat = np.ascontiguousarray(values).reshape(-1)
    file.write(memoryview(flat.view(np.uint8)))
