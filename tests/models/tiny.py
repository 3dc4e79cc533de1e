"""Tiny models with parameters large enough that every mistake shows in the logits."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from megan_jax.data.batch import Batch, Segment, assemble
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import LlamaConfig
from megan_jax.models.decoder import Precision
from megan_jax.models.model import Model

# Tests spend their time in the compiler; unoptimised programs compile in half of it.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# head_dim (6) is neither D/N (4) nor a power of two; K divides N.
TINY = LlamaConfig(
    vocab_size=37,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=64,
)


def tiny_model(
    hypernet: HypernetConfig | None = None, precision: Precision | None = None, **fields: Any
) -> Model:
    """A model of `TINY` with some fields replaced."""
    return Model(dataclasses.replace(TINY, **fields), hypernet, precision or Precision())


def random_params(model: Model, seed: int = 0) -> dict[str, Any]:
    """Parameters with nothing at its neutral value: norms off 1, biases off 0, gates large."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(shape)
        if path.endswith("scale"):
            return 1 + 0.2 * values
        if path.endswith("embedding"):
            return 0.7 * values
        return 0.3 * values

    flat = flatten_dict(model.abstract(), sep="/")
    drawn = {path: draw(path, leaf.shape).astype(np.float32) for path, leaf in flat.items()}
    return unflatten_dict(drawn, sep="/")


def draw_segment(
    rng: np.random.Generator, length: int, condition: np.ndarray | None = None
) -> Segment:
    """Random tokens, about half of them labelled, at least one."""
    labelled = rng.random(length) < 0.5
    labelled[-1] = True
    tokens = rng.integers(0, TINY.vocab_size, length).astype(np.int32)
    return Segment(tokens, labelled, condition)


def draw_condition(rng: np.random.Generator, length: int) -> np.ndarray:
    """Random condition tokens."""
    return rng.integers(0, TINY.vocab_size, length).astype(np.int32)


def one_by_one(segments: list[Segment], row_length: int, capacity: int) -> Batch:
    """The same examples, each in a row of its own."""
    return assemble([[segment] for segment in segments], row_length, capacity)


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """Every leaf under its path, as numpy."""
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}


def assert_trees_close(ours: Any, theirs: Any, relative: float) -> None:
    """Each leaf agrees within `relative` of its own norm plus a tenth of that of the whole tree's.

    The second part is for leaves that are sums of large terms cancelling out, such as the
    gradients of key biases.
    """
    left, right = leaves(jax.device_get(ours)), leaves(jax.device_get(theirs))
    assert sorted(left) == sorted(right)
    total = np.sqrt(sum(float(np.sum(np.square(v, dtype=np.float64))) for v in right.values()))
    for path, value in left.items():
        off = float(np.linalg.norm((value.astype(np.float64) - right[path]).ravel()))
        allowed = relative * (float(np.linalg.norm(right[path].ravel())) + 0.1 * total)
        assert off <= allowed, f"{path}: {off:.3g} > {allowed:.3g}"
