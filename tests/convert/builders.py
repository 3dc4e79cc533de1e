"""Weight files written plainly and independently of the package, to be read by it."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}


def safetensors_bytes(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def encode_blocks(rows: np.ndarray, kind: str) -> tuple[bytes, np.ndarray]:
    """Quantises `[n, 32 m]` block by block in plain Python.

    Returns:
      The stored bytes, and the float32 values that a reader has to give back.
    """
    stored, values = bytearray(), []
    for block in rows.astype(np.float32).reshape(-1, 32):
        if kind == "Q8_0":
            scale = np.float16(np.abs(block).max() / 127)
            codes = [round(float(x) / float(scale)) for x in block]
            stored += scale.tobytes() + struct.pack("32b", *codes)
            values += [np.float32(scale) * np.float32(code) for code in codes]
            continue
        if kind == "Q4_0":
            scale, least = np.float16(np.abs(block).max() / 7), None
            codes = [min(max(round(float(x) / float(scale)) + 8, 0), 15) for x in block]
            values += [np.float32(scale) * np.float32(code - 8) for code in codes]
            stored += scale.tobytes()
        else:
            least = np.float16(block.min())
            scale = np.float16((block.max() - block.min()) / 15)
            codes = [
                min(max(round((float(x) - float(least)) / float(scale)), 0), 15) for x in block
            ]
            values += [np.float32(scale) * np.float32(c) + np.float32(least) for c in codes]
            stored += scale.tobytes() + least.tobytes()
        stored += bytes(codes[i] | codes[i + 16] << 4 for i in range(16))
    return bytes(stored), np.array(values, np.float32).reshape(rows.shape)


def encode(values: np.ndarray, kind: str) -> tuple[bytes, np.ndarray]:
    """Stores values as one of `GGUF_TYPES`; returns the bytes and what a reader gives back."""
    plain = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    if kind in plain:
        stored = values.astype(plain[kind])
        return stored.tobytes(), stored
    return encode_blocks(values, kind)


def gguf_string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf_value(value: Any) -> bytes:
    """Type number and value, as the Python type suggests."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<Ii", 5, value) if value < 0 else struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value, list):
        items = [gguf_value(item) for item in value]
        kind = items[0][:4]
        assert all(item[:4] == kind for item in items)
        return (
            struct.pack("<I", 9)
            + kind
            + struct.pack("<Q", len(items))
            + b"".join(item[4:] for item in items)
        )
    raise TypeError(type(value))


def gguf_bytes(
    metadata: dict[str, Any],
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]],
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A GGUF file of tensors given as (shape `[out, in]`, type number, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += gguf_string(key) + gguf_value(value)
    body = b""
    for name, (shape, kind, raw) in tensors.items():
        out += gguf_string(name) + struct.pack("<I", len(shape))
        out += struct.pack(f"<{len(shape)}Q", *reversed(shape))
        out += struct.pack("<IQ", kind, len(body))
        body += raw + b"\0" * (-len(raw) % alignment)
    return out + b"\0" * (-len(out) % alignment) + body


class Pickler:
    """Writes the few pickle operations of a state dict, protocol 2, by hand."""

    def __init__(self) -> None:
        self.out = b"\x80\x02"

    def text(self, text: str) -> Pickler:
        self.out += b"X" + struct.pack("<I", len(text.encode())) + text.encode()
        return self

    def name(self, name: str) -> Pickler:
        module, _, last = name.rpartition(".")
        self.out += b"c" + module.encode() + b"\n" + last.encode() + b"\n"
        return self

    def number(self, value: int) -> Pickler:
        raw = value.to_bytes(9, "little", signed=True)
        self.out += b"\x8a" + bytes([len(raw)]) + raw
        return self

    def numbers(self, values: tuple[int, ...]) -> Pickler:
        self.out += b"("
        for value in values:
            self.number(value)
        self.out += b"t"
        return self

    def raw(self, operations: bytes) -> Pickler:
        self.out += operations
        return self

    def tensor(
        self,
        storage: str,
        key: str,
        count: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
    ) -> Pickler:
        if strides is None:
            strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
        self.name("torch._utils._rebuild_tensor_v2").raw(b"((").text("storage").name(storage)
        self.text(key).text("cpu").number(count).raw(b"tQ").number(offset)
        self.numbers(shape).numbers(strides).raw(b"\x89").name("collections.OrderedDict")
        return self.raw(b")RtR")


def state_dict(build) -> bytes:
    """A pickle of one OrderedDict; `build(pickler)` writes key, value, key, value, …"""
    pickler = Pickler().name("collections.OrderedDict").raw(b")R(")
    build(pickler)
    return pickler.raw(b"u.").out


def write_torch_zip(
    path: Path,
    data: bytes,
    storages: dict[str, bytes],
    byteorder: bytes | None = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        if byteorder is not None:
            archive.writestr("archive/byteorder", byteorder)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", b"3\n")
    return path


def write_state_dict(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A `.bin` of float32 or bfloat16 arrays, one storage each."""
    storages: dict[str, bytes] = {}

    def build(pickler: Pickler) -> None:
        for key, (name, array) in enumerate(tensors.items()):
            kind = "torch.BFloat16Storage" if array.dtype.itemsize == 2 else "torch.FloatStorage"
            pickler.text(name).tensor(kind, str(key), array.size, array.shape)
            storages[str(key)] = array.tobytes()

    return write_torch_zip(path, state_dict(build), storages)
