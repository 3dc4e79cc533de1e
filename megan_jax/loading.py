"""From a name or a path to a model that can be run: base models, checkpoints, run folders."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save

from megan_jax import config as configs
from megan_jax import convert, run_folder
from megan_jax.data.suite.fetch import base_model_path
from megan_jax.data.templates import DEFAULT_DATE
from megan_jax.data.tokenizers import Tokenizer, byte_tokenizer, load_tokenizer
from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import LlamaConfig, tiny_random
from megan_jax.models.decoder import Precision
from megan_jax.models.model import Model, Params
from megan_jax.parallel.axes import AxisRules
from megan_jax.training.checkpoints import load_parameters
from megan_jax.training.trainable import join

EMBEDDED = "smollm2-135m-instruct"
# A hypernetwork for the embedded model that comes with the package; a run folder like any other.
PRETRAINED = "pretrained"
PRETRAINED_RUN = Path(__file__).parent / "assets" / "smollm2-135m-suite"
TINY = "tiny-random"
WEIGHTS_FILE = "weights.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """What a run starts from.

    Attributes:
      config: the target network's shape.
      params: its parameters, `{"target": …}`, with `"hyper"` if the source is a MeGan checkpoint.
      hypernet: the checkpoint's own hypernetwork, or None.
      tokenizer_path: where its tokenizer lies; None: the byte tokenizer of `tiny-random`.
      source: the name or path it was loaded by.
      fingerprint: identifies the weights.
    """

    config: LlamaConfig
    params: Params
    hypernet: HypernetConfig | None
    tokenizer_path: Path | None
    source: str
    fingerprint: str

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Read when it is first asked for: weights can be used without one.

        Raises:
          UserError: there is none, or it has more ids than the model.
        """
        if self.tokenizer_path is None:
            return byte_tokenizer()
        tokenizer = load_tokenizer(self.tokenizer_path)
        if tokenizer.vocab_size > self.config.vocab_size:
            raise UserError(
                f"the tokenizer {self.tokenizer_path} has ids up to {tokenizer.vocab_size - 1}, "
                f"but the model {self.source} has {self.config.vocab_size} embeddings. Use the "
                "model's tokenizer."
            )
        return tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A model ready to run.

    Attributes:
      model, params: the networks and their parameters (`"hyper"` is absent in a base model).
      config: the run's configuration, or the defaults for a model that no run made.
      base: what the run started from.
      trained: dotted paths of the parameters that a run trained; empty for other models.
    """

    model: Model
    params: Params
    config: ConfigDict
    base: Base
    trained: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns text into ids; see `Base.tokenizer`."""
        return self.base.tokenizer

    @property
    def changes_base(self) -> bool:
        """Whether training changed the target network itself."""
        return any(path.startswith("target/") for path in self.trained)


def default_dtype(name: str = "auto") -> jnp.dtype:
    """The dtype of base weights and activations: bfloat16 on accelerators, float32 on CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def load_base(name: str, dtype: Any = None, tokenizer: str = "") -> Base:
    """Loads a base model into host memory.

    Args:
      name: `smollm2-135m-instruct` (fetched and cached on first use), `tiny-random` (random
        weights, needs nothing), or the path of a Hugging Face or MeGan folder or a GGUF file.
      dtype: of the target's parameters; None keeps the stored one.
      tokenizer: path of another tokenizer; empty: the model's own.

    Raises:
      UserError: nothing there, or something that cannot be read.
    """
    dtype = None if dtype is None else np.dtype(dtype)
    if name == TINY:
        own = byte_tokenizer()
        shape = dataclasses.replace(
            tiny_random(own.vocab_size),
            bos_token_id=own.bos_id,
            eos_token_id=(own.eos_id,),
            pad_token_id=own.pad_id,
        )
        params = jax.tree.map(np.asarray, Model(shape).init(jax.random.key(0)))
        if dtype is not None:
            params = jax.tree.map(lambda x: x.astype(dtype), params)
        chosen = Path(tokenizer) if tokenizer else None
        return Base(shape, params, None, chosen, TINY, f"{TINY}-0")
    path = base_model_path() if name == EMBEDDED else Path(name)
    if not path.exists():
        raise UserError(
            f"model {name!r}: there is no such file or folder. Give {EMBEDDED!r}, {TINY!r} or a "
            "path."
        )
    found = convert.load(path, dtype)
    return Base(
        found.config,
        found.params,
        found.hypernet,
        Path(tokenizer or path),
        name,
        convert.fingerprint(path),
    )


def precision(config: ConfigDict) -> Precision:
    """The static choices of the compiled program that a configuration asks for."""
    return Precision(
        compute=default_dtype(config.dtype),
        remat=config.train.remat,
        scan=config.train.scan_layers,
    )


def shardings(model: Model, mesh: Mesh, rules: AxisRules) -> Params:
    """Where every parameter lies on the mesh, in the tree of `Model.init`."""
    specs = model.logical_axes()
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, nn.logical_to_mesh_axes(spec, rules.pairs())),
        specs,
        is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec),
    )


def place(params: Params, where: Params) -> Params:
    """Puts host arrays onto the mesh; `where` may have more entries than `params`."""
    return {key: jax.tree.map(jax.device_put, value, where[key]) for key, value in params.items()}


def save_weights(path: Path, tree: Params) -> None:
    """Writes trained parameters as one safetensors file, names being their paths."""
    flat = {
        ".".join(key.key for key in keys): np.asarray(leaf)
        for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    temporary = path.with_name(f".{path.name}.partial")
    with run_folder.user_errors(path):
        try:
            # Not `save_file`, which leaves the file readable by its owner alone.
            temporary.write_bytes(save(flat))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _read_weights(path: Path) -> Params:
    try:
        flat = load_file(path)
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({error}). Copy the file again.") from error
    return join(*({name.replace(".", "/"): leaf} for name, leaf in flat.items()))


def load_run(path: str | Path, dtype: Any = None) -> Loaded:
    """Loads a run folder: its base model, its newest checkpoint (or exported weights), its config.

    Raises:
      UserError: no run there, no checkpoint, another base model than the run was trained on.
    """
    run = run_folder.open(path)
    config = configs.from_json(run.config, str(run.path / run_folder.RUN_FILE))
    wanted = default_dtype(config.dtype) if dtype is None else np.dtype(dtype)
    base = load_base(config.model, wanted, config.tokenizer.path)
    run_folder.check_fingerprints(
        run.info.get("fingerprints", {}),
        {"base_model": {"source": base.source, "fingerprint": base.fingerprint}},
        str(run.path),
    )
    exported = run.path / WEIGHTS_FILE
    tree = load_parameters(run.checkpoints)[0] if run.checkpoints.is_dir() else None
    if tree is None:
        if not exported.is_file():
            raise UserError(f"{run.path}: has neither checkpoints nor {WEIGHTS_FILE}. Train it.")
        tree = _read_weights(exported)
    model = Model(
        base.config,
        configs.hypernet_config(config),
        dataclasses.replace(precision(config), compute=jnp.dtype(wanted)),
    )
    params = join({"target": base.params["target"]}, tree)
    _check_tree(model, params, run.path)
    trained = tuple(
        "/".join(key.key for key in keys)
        for keys, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    )
    return Loaded(model, params, config, base, trained)


def _check_tree(model: Model, params: Params, where: Path) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {"/".join(key.key for key in keys): leaf.shape for keys, leaf in flat}

    found, wanted = shapes(params), shapes(model.abstract())
    differing = sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )
    if differing:
        listed = "; ".join(
            f"{name}: {found.get(name, 'absent')} here, {wanted.get(name, 'absent')} expected"
            for name in differing[:5]
        )
        raise UserError(
            f"{where}: the weights do not fit the configuration ({len(differing)} differ): "
            f"{listed}."
        )


def load_model(path: str | Path, dtype: Any = None) -> Loaded:
    """Loads whatever `path` is: a run folder, a base model's name, a folder or a GGUF file, or
    `pretrained`, the run that comes with the package.
    """
    if str(path) == PRETRAINED:
        path = PRETRAINED_RUN
    if run_folder.is_run_folder(path):
        return load_run(path, dtype)
    config = configs.get_default()
    wanted = default_dtype() if dtype is None else np.dtype(dtype)
    base = load_base(str(path), wanted)
    config.model = str(path)
    model = Model(base.config, base.hypernet, Precision(compute=jnp.dtype(wanted)))
    if base.hypernet is not None:
        config.hypernet.condition_length = base.hypernet.condition_length
    config.tokenizer.date = DEFAULT_DATE
    return Loaded(model, base.params, config, base)
