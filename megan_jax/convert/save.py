"""Models to disk: Hugging Face folders and MeGan folders under the reference's names."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megan_jax.convert import names
from megan_jax.convert.load import HYPERNET_KEY
from megan_jax.convert.safetensors_io import DEFAULT_SHARD_BYTES, Writable, write_safetensors
from megan_jax.convert.tensors import widest
from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import LlamaConfig


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Gives a hidden folder beside `path` to fill, which becomes `path` when the block ends well.

    If the block fails, is interrupted, or the disk is full, nothing is left behind.

    Raises:
      UserError: `path` exists and is not an empty folder, or something can't be written.
    """
    path = Path(path).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists already and is not an empty folder. Choose another.")
    partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: can't be written: {error.strerror or error}. Nothing was left there."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_hf(
    path: str | Path,
    config: LlamaConfig,
    params_target: Mapping[str, Any],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes a target network as a Hugging Face folder: config.json and safetensors.

    Args:
      path: a folder that does not exist yet, or an empty one.
      params_target: the `"target"` part of a parameter tree.
      max_shard_bytes: tensor data per file.

    Raises:
      UserError: parameters that do not fit the config, or a folder that can't be written.
    """
    table = names.target_table(config)
    tensors = names.stored_tensors(table, {"target": params_target})
    with new_folder(path) as folder:
        write_model(folder, config, None, tensors, max_shard_bytes)


def save_megan_torch(
    path: str | Path,
    config: LlamaConfig,
    hypernet: HypernetConfig,
    params: Mapping[str, Any],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes target and hypernetwork under the reference's names, each tensor once.

    Loading the folder again gives the same bits and the same configs.

    Args:
      path: a folder that does not exist yet, or an empty one.
      params: `{"target": …, "hyper": …}`.
      max_shard_bytes: tensor data per file.

    Raises:
      UserError: a variant that the reference has no names for, parameters that do not fit the
        configs, or a folder that can't be written.
    """
    table = names.target_table(config) + names.hyper_table(config, hypernet)
    tensors = names.stored_tensors(table, params)
    with new_folder(path) as folder:
        write_model(folder, config, hypernet, tensors, max_shard_bytes)


def write_model(
    folder: Path,
    config: LlamaConfig,
    hypernet: HypernetConfig | None,
    tensors: Sequence[Writable],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Writes config.json and the given tensors, read one by one, into an existing folder."""
    fields = config.to_hf()
    fields["torch_dtype"] = str(widest({np.dtype(tensor.dtype) for tensor in tensors}))
    if hypernet is not None:
        fields.update(reference_fields(hypernet))
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    write_safetensors(folder, tensors, max_shard_bytes)


def reference_fields(hypernet: HypernetConfig) -> dict[str, Any]:
    """The config.json keys of a MeGan model: the reference's, and ours where these say less.

    Raises:
      UserError: a variant that the reference does not have.
    """
    fields = dict(hypernet.to_reference())
    if HypernetConfig.from_reference(fields) != hypernet:
        fields[HYPERNET_KEY] = dataclasses.asdict(hypernet)
    if hypernet.kind == "shared":
        fields["architectures"] = ["LlamaForCausalLM_sharedHyper"]
    return fields
