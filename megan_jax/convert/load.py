"""Models from disk: Hugging Face and MeGan folders and GGUF files, as configs and parameters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from megan_jax.convert import names
from megan_jax.convert.folder import open_folder, read_json
from megan_jax.convert.gguf import MAGIC, read_gguf
from megan_jax.convert.gguf_llama import hf_tensors, llama_config
from megan_jax.convert.tensors import LazyTensor, widest
from megan_jax.errors import UserError, nearest
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import LlamaConfig

HYPERNET_KEY = "megan_jax_hypernet"
RUN_FILE = "run.json"
_SAMPLE_BYTES = 16 * 1024
_SAMPLES = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An opened model: configs, and its tensors under Hugging Face and MeGan names, not yet read.

    `tensors` holds exactly what the configs ask for, each once.
    """

    path: Path
    config: LlamaConfig
    hypernet: HypernetConfig | None
    tensors: dict[str, LazyTensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A loaded model.

    Attributes:
      config: the target network.
      hypernet: the hypernetwork; None for a base model.
      params: `{"target": …}`, with `"hyper"` for a MeGan model; numpy arrays.
    """

    config: LlamaConfig
    hypernet: HypernetConfig | None
    params: dict[str, Any]


def load(
    path: str | Path,
    dtype: Any = None,
    open_run: Callable[[Path, Any], Loaded] | None = None,
) -> Loaded:
    """Loads a model into host memory; each parameter is allocated once and filled layer by layer.

    Args:
      path: a Hugging Face folder, a MeGan folder (safetensors or `pytorch_model.bin`), or a .gguf.
      dtype: of the target network; None keeps what is stored (quantised tensors become float32).
        With a dtype, the hypernetwork becomes float32, or stays float64.
      open_run: loads a run folder (recognised by its run.json); without it that is an error.

    Raises:
      UserError: anything missing, truncated, hostile, unsupported, or not fitting together; the
        message names the file and the tensors.
    """
    path = Path(path)
    if open_run is not None and (path / RUN_FILE).is_file():
        return open_run(path, dtype)
    source = open_model(path)
    target = None if dtype is None else np.dtype(dtype)

    def of_target(stored: np.dtype) -> np.dtype:
        return stored if target is None else target

    def of_hyper(stored: np.dtype) -> np.dtype:
        return stored if target is None else widest({stored, np.dtype(np.float32)})

    table = names.target_table(source.config)
    params = names.build(table, source.tensors, of_target)
    hyper_table = names.hyper_table(source.config, source.hypernet)
    params.update(names.build(hyper_table, source.tensors, of_hyper))
    return Loaded(source.config, source.hypernet, params)


def open_model(path: str | Path) -> Source:
    """Opens a model and checks that config and weights fit; no tensor is read unless copies of one
    have to be compared.

    Raises:
      UserError: as `load`.
    """
    path = Path(path)
    try:
        return _open_file(path) if path.is_file() else _open_folder(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or error}.") from error


def _open_folder(path: Path) -> Source:
    if not path.is_dir():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"{path}: there is no such file or folder.{nearest(path.name, siblings)} A model is a "
            "Hugging Face or MeGan folder, a .gguf file, or a run folder."
        )
    if (path / RUN_FILE).is_file():
        raise UserError(
            f"{path}: this is a run folder of megan_jax; here a Hugging Face or MeGan folder or a "
            ".gguf file is needed."
        )
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path}: the folder has no config.json, so it is not a model.{_hint(path)}"
        )
    config, hypernet = read_config(path)
    tensors = names.match(config, hypernet, open_folder(path), str(path))
    return Source(path, config, hypernet, tensors)


def _open_file(path: Path) -> Source:
    with open(path, "rb") as file:
        start = file.read(len(MAGIC))
    if start != MAGIC and path.suffix != ".gguf":
        raise UserError(
            f"{path}: not a .gguf file. For safetensors and .bin weights give the folder that "
            "holds them and their config.json."
        )
    gguf = read_gguf(path)
    config = llama_config(gguf)
    tensors = names.match(config, None, hf_tensors(gguf, config), str(path))
    return Source(path, config, None, tensors)


def _hint(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return " It holds a PEFT adapter; merge it into its base model first."
    ggufs = sorted(folder.glob("*.gguf"))
    return f" Did you mean {str(ggufs[0])!r}?" if ggufs else ""


def read_config(folder: Path) -> tuple[LlamaConfig, HypernetConfig | None]:
    """Reads config.json: the target network, and the hypernetwork where there is one.

    Raises:
      UserError: a field that is missing, unknown to the hypernetwork, or of the wrong type.
    """
    fields = read_json(folder / "config.json")
    try:
        return LlamaConfig.from_hf(fields), _hypernet(fields)
    except UserError as error:
        raise UserError(f"In {folder}: {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{folder / 'config.json'}: a field has a value of the wrong type ({error})."
        ) from error


def _hypernet(fields: Mapping[str, Any]) -> HypernetConfig | None:
    ours = fields.get(HYPERNET_KEY)
    if ours is not None:
        if not isinstance(ours, dict):
            raise UserError(f"config.json: {HYPERNET_KEY} should be an object.")
        known = [field.name for field in dataclasses.fields(HypernetConfig)]
        for key in ours:
            if key not in known:
                raise UserError(
                    f"config.json: {HYPERNET_KEY} has the unknown key {key!r}.{nearest(key, known)}"
                )
        return HypernetConfig(**ours)
    if any(key.startswith("meta_swishglu_") for key in fields):
        return HypernetConfig.from_reference(fields)
    return None


def fingerprint(path: str | Path) -> str:
    """A SHA-256 that tells models apart without reading them whole.

    It covers the configs and, for every tensor, its name, type, shape and sampled bytes (all of
    them up to 64 KiB, else four blocks of 16 KiB from first to last), so it does not depend on
    where the model lies or how it is cut into shards. A change that misses every sampled block
    goes unseen.

    Raises:
      UserError: as `load`.
    """
    source = open_model(path)
    digest = hashlib.sha256()
    for config in (source.config, source.hypernet):
        digest.update(json.dumps(_settings(config), sort_keys=True, default=_settings).encode())
    for name, tensor in sorted(source.tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape} {len(tensor.raw)}\n".encode())
        for begin, end in _sampled(len(tensor.raw)):
            digest.update(tensor.raw[begin:end])
    return digest.hexdigest()


def _settings(config: Any) -> dict[str, Any] | None:
    """The fields that differ from their defaults, so that a new option changes no fingerprint."""
    if config is None:
        return None
    fields = [(field.name, field.default) for field in dataclasses.fields(config)]
    values = {name: getattr(config, name) for name, _ in fields}
    return {name: values[name] for name, default in fields if values[name] != default}


def _sampled(size: int) -> list[tuple[int, int]]:
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return [(0, size)]
    step = (size - _SAMPLE_BYTES) / (_SAMPLES - 1)
    starts = [math.floor(step * index) for index in range(_SAMPLES)]
    return [(start, start + _SAMPLE_BYTES) for start in starts]
