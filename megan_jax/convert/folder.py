"""A model folder in Hugging Face's layout: config.json and weight files, in shards or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megan_jax.convert.safetensors_io import open_safetensors
from megan_jax.convert.tensors import LazyTensor
from megan_jax.convert.torch_pickle import open_torch
from megan_jax.errors import UserError

Open = Callable[[Path], dict[str, LazyTensor]]
# In the order in which transformers looks: stem, ending, reader.
_KINDS: tuple[tuple[str, str, Open], ...] = (
    ("model", "safetensors", open_safetensors),
    ("pytorch_model", "bin", open_torch),
)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: no such file, not UTF-8, not JSON, or not an object.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON file in UTF-8 ({error}).") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: should be a JSON object, is a {type(fields).__name__}.")
    return fields


def open_folder(folder: Path) -> dict[str, LazyTensor]:
    """Opens all tensors of a folder: one file, or shards with or without their index.

    Safetensors go before pickles, a single file before shards.

    Raises:
      UserError: no weights, a missing or broken shard, an index that names a file outside the
        folder or a tensor that its file does not hold, or a tensor in two files.
    """
    for stem, ending, open_file in _KINDS:
        single = folder / f"{stem}.{ending}"
        if single.exists():
            return open_file(single)
        index = folder / f"{stem}.{ending}.index.json"
        if index.exists():
            return _open_index(index, open_file)
        shards = sorted(folder.glob(f"{stem}-*-of-*.{ending}"))
        if shards:
            return _open_shards(shards, open_file)
    wanted = ", ".join(f"{stem}.{ending}" for stem, ending, _ in _KINDS)
    raise UserError(f"{folder}: there are no weights in it ({wanted}, or shards of one of them).")


def _open_index(index: Path, open_file: Open) -> dict[str, LazyTensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index}: has no weight_map from tensor to file.")
    files: dict[str, dict[str, LazyTensor]] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, place in places.items():
        if not isinstance(place, str) or place in ("", ".", "..") or set(place) & set("/\\\0"):
            raise UserError(f"{index}: {name!r} should be in {place!r}, not the name of a file.")
        if place not in files:
            if not (index.parent / place).is_file():
                count = sum(1 for other in places.values() if other == place)
                raise UserError(
                    f"{index.parent / place}: this shard is missing; the index places {count} "
                    "tensor(s) in it. Copy or download it again."
                )
            files[place] = open_file(index.parent / place)
        if name not in files[place]:
            raise UserError(
                f"{index.parent / place}: has no tensor {name!r}, which {index.name} places there."
            )
        tensors[name] = files[place][name]
    return tensors


def _open_shards(shards: list[Path], open_file: Open) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        for name, tensor in open_file(shard).items():
            if name in tensors:
                raise UserError(f"{shard}: holds {name!r}, as {tensors[name].file.name} does.")
            tensors[name] = tensor
    return tensors
