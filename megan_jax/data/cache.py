"""Examples tokenised once: a folder with an ArrayRecord file, an index and a manifest.

The folder's name is the fingerprint of everything that shaped the examples, so a cache is never
stale; it appears whole, by one rename, or not at all; and it is checked before it is used, so a
damaged one is built again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from megan_jax.data.encode import EncodedExample
from megan_jax.data.table import ExampleIndex, IndexBuilder
from megan_jax.errors import UserError

# Part of every fingerprint. Raise it when encoding, the index or the format of a row changes.
CODE_VERSION = 1

_RECORDS, _INDEX, _MANIFEST = "examples.array_record", "index.npz", "manifest.json"
_ARRAYS = ("tokens", "loss_mask", "conditions")
_BLOCK = 2**22


def fingerprint(parts: Mapping[str, Any]) -> str:
    """32 hex digits of a set of named values, independent of their order.

    Args:
      parts: everything that shapes the encoded examples: hashes of the sources, the tokenizer and
        the template, placement, expression, wording, lengths, ... Values are what JSON can hold.
    """
    text = json.dumps({"code": CODE_VERSION, "parts": dict(parts)}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_fingerprint(path: str | os.PathLike[str]) -> str:
    """32 hex digits of a file's bytes. Raises UserError if the file cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from error
    return digest.hexdigest()


class CachedTable:
    """A `megan_jax.data.table.Table` in a cache folder, as `open_or_build` returns it.

    Attributes:
      path: the folder.
      index: see `ExampleIndex`.
      condition_length: every condition is cut to this many tokens.
    """

    def __init__(self, path: Path, index: ExampleIndex, condition_length: int):
        self.path, self.index, self.condition_length = path, index, condition_length
        self._reader = array_record_module.ArrayRecordReader(
            str(path / _RECORDS), "readahead_buffer_size:0,max_parallelism:0"
        )
        if not self._reader.ok() or self._reader.num_records() != len(index):
            raise ValueError(f"{path / _RECORDS} does not hold the records of its index.")

    def fetch(self, numbers: Sequence[int]) -> list[EncodedExample]:
        """The examples with these numbers, in this order.

        Raises:
          UserError: the records changed on the disk since the cache was opened.
        """
        numbers = [int(number) for number in numbers]
        if not numbers:
            return []
        try:
            return [unpack_example(record) for record in self._reader.read(numbers)]
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{self.path / _RECORDS} is damaged ({error}). Remove the folder {self.path}; "
                "the next run builds it again."
            ) from error


def open_or_build(
    directory: str | os.PathLike[str],
    parts: Mapping[str, Any],
    condition_length: int,
    build: Callable[[], Iterable[EncodedExample]],
) -> CachedTable:
    """The cache for these parts, built if it is not there or damaged.

    Processes that ask for the same cache at once wait for the one that builds it; where the file
    system has no locks they build side by side, and the first to finish wins.

    Args:
      directory: where caches lie; made if missing.
      parts: see `fingerprint`; `condition_length` is added to them.
      condition_length: every condition is cut to this many tokens.
      build: called only if needed; yields the encoded examples in order.

    Returns:
      The table. Its examples are exactly those that `build` yields.

    Raises:
      UserError: the directory cannot be written (read-only, full), or `build` yields no example or
        one that cannot be indexed. Nothing half-written is left behind.
    """
    key = fingerprint({**parts, "condition_length": condition_length})
    root = Path(directory)
    final = root / key
    with _disk(root):
        root.mkdir(parents=True, exist_ok=True)
    table = open_cache(final)
    if table is not None:
        return table
    with _lock(root, key) as locked:
        table = open_cache(final)
        if table is not None:
            return table
        if locked:  # what a killed process left; nobody else is at work on this key
            for leftover in root.glob(f".{key}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        with _disk(root):
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=root))
        try:
            _write(temporary, parts, condition_length, build())
            _publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    table = open_cache(final)
    if table is None:
        raise UserError(
            f"the token cache {final} was written but does not read back; check the disk, or "
            "choose another folder with config.data.cache_dir."
        )
    return table


def open_cache(path: Path) -> CachedTable | None:
    """Opens a cache folder; None if it is not there, incomplete, or fails its checksums."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
        for name, (size, crc) in manifest["files"].items():
            if (path / name).stat().st_size != size or _crc(path / name) != crc:
                return None
        with np.load(path / _INDEX, allow_pickle=False) as stored:
            arrays = dict(stored)
        condition_length = int(arrays.pop("condition_length"))
        index = ExampleIndex(types=tuple(arrays.pop("types").tolist()), **arrays)
        return CachedTable(path, index, condition_length)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile):
        return None


def pack_example(example: EncodedExample) -> bytes:
    """One example as a record: CRC-32, sizes, tokens, mask bits, conditions, the rest as JSON."""
    tokens = np.ascontiguousarray(example.tokens, "<i4")
    conditions = [np.ascontiguousarray(c, "<i4") for c in example.conditions]
    names = (field.name for field in dataclasses.fields(example))
    rest = {name: getattr(example, name) for name in names if name not in _ARRAYS}
    sizes = [len(tokens), len(conditions), *map(len, conditions)]
    body = b"".join(
        [
            struct.pack(f"<{len(sizes)}I", *sizes),
            tokens.tobytes(),
            np.packbits(np.asarray(example.loss_mask, bool)).tobytes(),
            *(condition.tobytes() for condition in conditions),
            json.dumps(rest, ensure_ascii=False).encode(),
        ]
    )
    return struct.pack("<I", zlib.crc32(body)) + body


def unpack_example(record: bytes) -> EncodedExample:
    """The example of a record. Raises ValueError if its checksum is wrong."""
    if len(record) < 12 or zlib.crc32(record[4:]) != struct.unpack_from("<I", record)[0]:
        raise ValueError("a record fails its checksum")
    count, wordings = struct.unpack_from("<2I", record, 4)
    lengths = struct.unpack_from(f"<{wordings}I", record, 12)
    at = 12 + 4 * wordings
    tokens = np.frombuffer(record, "<i4", count, at)
    at += 4 * count
    bits = np.frombuffer(record, np.uint8, -(-count // 8), at)
    at += len(bits)
    conditions = []
    for length in lengths:
        conditions.append(np.frombuffer(record, "<i4", length, at))
        at += 4 * length
    rest = {name: _tuples(value) for name, value in json.loads(record[at:]).items()}
    mask = np.unpackbits(bits, count=count).astype(bool)
    return EncodedExample(tokens=tokens, loss_mask=mask, conditions=conditions, **rest)


def _tuples(value: Any) -> Any:
    """JSON has no tuples, an example no lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _write(
    path: Path, parts: Mapping[str, Any], condition_length: int, examples: Iterable[EncodedExample]
) -> None:
    builder = IndexBuilder(condition_length)
    count = 0
    with _disk(path):
        writer = array_record_module.ArrayRecordWriter(
            str(path / _RECORDS), "group_size:16,uncompressed"
        )
    try:
        for example in examples:
            builder.add(example)
            record = pack_example(example)
            with _disk(path):
                writer.write(record)
            count += 1
    finally:
        with _disk(path):
            writer.close()
    if count == 0:
        raise UserError("there are no examples to train or evaluate on; check the data source.")
    index = builder.finish()
    with _disk(path):
        arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
        arrays["types"] = np.array(index.types)
        np.savez(path / _INDEX, condition_length=condition_length, **arrays)
        files = {}
        for name in (_RECORDS, _INDEX):
            with open(path / name, "rb") as file:
                os.fsync(file.fileno())
            files[name] = [(path / name).stat().st_size, _crc(path / name)]
        manifest = {
            "parts": dict(parts),
            "condition_length": condition_length,
            "examples": count,
            "files": files,
        }
        with open(path / _MANIFEST, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1, sort_keys=True, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())


def _publish(temporary: Path, final: Path) -> None:
    """Renames a finished folder into place, unless another process was first."""
    with _disk(final):
        if final.exists():
            if open_cache(final) is not None:
                return
            shutil.rmtree(final)
        try:
            os.rename(temporary, final)
        except OSError:
            if open_cache(final) is None:
                raise


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns a failure of the disk into words. ArrayRecord reports its own as RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot write the token cache in {path}: {reason}. Free some space or mend the "
            "folder's permissions, or choose another folder with config.data.cache_dir."
        ) from error


@contextlib.contextmanager
def _lock(root: Path, key: str) -> Iterator[bool]:
    """Holds the lock of a key, which ends with the process; False where there are no locks."""
    with _disk(root):
        file = open(root / f"{key}.lock", "w")  # noqa: SIM115
    with file:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked
