"""PyTorch `.bin` files (the zip format of `torch.save`), read without torch and without trust.

The archive holds `NAME/data.pkl`, which describes the tensors, and one member `NAME/data/KEY` per
storage; tensors are views (offset, size, stride) of storages and may share one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from megan_jax.convert.pickle_machine import Name, unpickle
from megan_jax.convert.tensors import LazyTensor, map_file, typed
from megan_jax.errors import UserError

_LARGEST_PICKLE = 32 * 2**20
_MOST_DIMENSIONS = 8
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_UNTYPED = ("torch.UntypedStorage", "torch.storage.UntypedStorage")
_DTYPES = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
# The first bytes of the format that torch.save wrote before version 1.6: a pickled magic number.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    raw: np.ndarray
    dtype: str | None


@dataclasses.dataclass(frozen=True)
class _View:
    """A tensor as the pickle describes it, checked against the bounds of its storage."""

    raw: np.ndarray
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def open_torch(path: str | Path) -> dict[str, LazyTensor]:
    """Opens a file written by `torch.save(state_dict)`: the description is read, no tensor is.

    Raises:
      UserError: a pickle that names anything but tensors, a tensor outside its storage, a missing
        or compressed member, a truncated file, big-endian data, or the format of torch < 1.6.
    """
    path = Path(path)
    data = map_file(path)
    members = _members(path, data)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(
            f"{path}: a zip file without one data.pkl in it: not a file of torch.save. Give the "
            "folder with the weights as safetensors or pytorch_model.bin."
        )
    prefix = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None and order[:16].tobytes().strip() != b"little":
        raise UserError(
            f"{path}: the tensors are big-endian; save them again on a little-endian machine."
        )
    text = members[pickles[0]]
    if len(text) > _LARGEST_PICKLE:
        raise UserError(
            f"{path}: data.pkl has {len(text)} bytes; descriptions of tensors have at most "
            f"{_LARGEST_PICKLE}. Save only the state dict."
        )
    names: dict[str, Any] = {
        "collections.OrderedDict": _empty_dict,
        "torch._utils._rebuild_tensor": functools.partial(_rebuild, path),
        "torch._utils._rebuild_tensor_v2": functools.partial(_rebuild, path),
        "torch._utils._rebuild_tensor_v3": functools.partial(_rebuild_v3, path),
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        **dict.fromkeys((*_STORAGES, *_UNTYPED), None),
        **dict.fromkeys((f"torch.{name}" for name in _DTYPES), None),
    }
    persistent = functools.partial(_storage, path, members, prefix)
    state = unpickle(text.tobytes(), names, persistent, str(path))
    if not isinstance(state, dict):
        raise UserError(
            f"{path}: holds a {_kind(state)}, not a dict of tensors. Save model.state_dict()."
        )
    return {name: _lazy(path, name, view) for name, view in state.items()}


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, _View) else type(value).__name__


def _lazy(path: Path, name: str, view: Any) -> LazyTensor:
    if not isinstance(view, _View):
        raise UserError(
            f"{path}: {name[:100]!r} is a {_kind(view)}, not a tensor. Save model.state_dict() "
            "alone, without optimizer or settings around it."
        )
    dtype = _DTYPES[view.dtype]
    decode = functools.partial(_decode, dtype=dtype, shape=view.shape, strides=view.strides)
    return LazyTensor(name, view.shape, dtype, view.dtype, path, view.raw, decode)


def _decode(raw: np.ndarray, dtype: np.dtype, shape, strides) -> np.ndarray:
    steps = tuple(step * dtype.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(typed(raw, dtype), shape, steps, writeable=False)


def _members(path: Path, data: np.ndarray) -> dict[str, np.ndarray]:
    """The bytes of every member, mapped; only stored (uncompressed) members are accepted."""
    if data[: len(_LEGACY)].tobytes() == _LEGACY:
        raise UserError(
            f"{path}: the format of torch.save before PyTorch 1.6, which is not read. Convert it "
            "once: torch.save(torch.load(FILE, weights_only=True), FILE)."
        )
    if data[:4].tobytes() != b"PK\x03\x04":
        raise UserError(f"{path}: not a PyTorch file (torch.save writes zip archives).")
    members: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename in members:
                    raise _bad(path, f"the member {info.filename!r} stands there twice")
                members[info.filename] = _member(path, data, info)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, zlib.error) as error:
        raise _bad(path, f"the archive is truncated or malformed ({error})") from error
    except (LookupError, EOFError, OverflowError, OSError) as error:
        raise _bad(path, f"the archive is malformed ({error})") from error
    return members


def _member(path: Path, data: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise UserError(
            f"{path}: the member {name!r} is compressed, which torch.save never does; not loaded, "
            "since it could unpack to any size. Save the weights again with torch.save."
        )
    if info.flag_bits & 1:
        raise _bad(path, f"the member {name!r} is encrypted")
    at = info.header_offset
    header = data[at : at + 30].tobytes() if at >= 0 else b""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise _bad(path, f"the member {name!r} has no header")
    begin = at + 30 + int.from_bytes(header[26:28], "little")
    begin += int.from_bytes(header[28:30], "little")
    if begin + info.file_size > len(data):
        raise _bad(path, f"truncated: the member {name!r} ends beyond the file")
    return data[begin : begin + info.file_size]


def _bad(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}. Copy or download the file again.")


def _empty_dict(*arguments: Any) -> dict[str, Any]:
    if arguments:
        raise ValueError("an OrderedDict with arguments")
    return {}


def _parameter(view: Any, *_: Any) -> _View:
    if not isinstance(view, _View):
        raise ValueError("a parameter of something that is no tensor")
    return view


def _storage(path: Path, members: dict[str, np.ndarray], prefix: str, identity: Any) -> _Storage:
    """Resolves a persistent id `("storage", type, key, device, number of elements)`."""
    if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("a persistent id that is no storage")
    _, kind, key, _, count = identity
    if not (isinstance(kind, Name) and isinstance(key, str) and _is_size(count)):
        raise ValueError("a storage with fields of the wrong type")
    if kind.name not in _STORAGES and kind.name not in _UNTYPED:
        raise ValueError(f"a storage of type {kind.name}")
    raw = members.get(f"{prefix}data/{key}")
    if raw is None:
        raise _bad(path, f"the storage {key[:40]!r} that a tensor refers to is missing")
    dtype = _STORAGES.get(kind.name)
    needed = count * (_DTYPES[dtype].itemsize if dtype else 1)
    if needed != len(raw):
        raise _bad(path, f"the storage {key[:40]!r} should have {needed} bytes and has {len(raw)}")
    return _Storage(key, raw, dtype)


def _rebuild(path: Path, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _View:
    if not isinstance(storage, _Storage) or storage.dtype is None:
        raise ValueError("a tensor without a typed storage")
    return _view(path, storage, storage.dtype, offset, shape, strides)


def _rebuild_v3(
    path: Path, storage: Any, offset: Any, shape: Any, strides: Any, _grad, _hooks, dtype, *_: Any
) -> _View:
    if not isinstance(storage, _Storage) or not isinstance(dtype, Name):
        raise ValueError("a tensor without a storage and a dtype")
    name = dtype.name.removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"a tensor of dtype {dtype.name}")
    return _view(path, storage, name, offset, shape, strides)


def _view(path: Path, storage: _Storage, dtype: str, offset, shape, strides) -> _View:
    itemsize = _DTYPES[dtype].itemsize
    held = len(storage.raw) // itemsize
    if not (_is_size(offset) and _are_sizes(shape) and _are_sizes(strides)):
        raise ValueError("a tensor whose offset, size or stride are not sizes")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("a tensor whose size and stride do not fit each other")
    count = math.prod(shape)
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    reach = last + 1 if count else offset
    # The second bound keeps stride 0 from turning a few bytes into terabytes.
    if reach > held or count > held:
        raise _bad(
            path,
            f"a tensor of size {list(shape)}, stride {list(strides)} and offset {offset} reaches "
            f"beyond its storage {storage.key[:40]!r} of {held} elements",
        )
    return _View(storage.raw[offset * itemsize : reach * itemsize], dtype, shape, strides)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_size(entry) for entry in value)
