"""AdamW with linear warm-up, a schedule, clipping, and no decay on biases."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax


def learning_rate(
    peak: float, steps: int, warmup_ratio: float, schedule: str = "cosine"
) -> optax.Schedule:
    """Learning rate per optimizer step, counted from 0.

    Linear from 0 over `ceil(warmup_ratio·steps)` steps, then `cosine` to 0 over the rest, or
    `constant`. The same as `transformers.get_cosine_schedule_with_warmup`.
    """
    warmup = math.ceil(warmup_ratio * steps)

    def rate(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = step / max(1, warmup)
        if schedule == "constant":
            after = jnp.ones_like(step)
        else:
            progress = (step - warmup) / max(1, steps - warmup)
            after = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return peak * jnp.where(step < warmup, rising, after)

    return rate


def decays(tree: Any) -> Any:
    """True for every leaf that weight decay acts on: all but biases."""

    def one(path: tuple[Any, ...], _: Any) -> bool:
        return getattr(path[-1], "key", None) != "bias"

    return jax.tree_util.tree_map_with_path(one, tree)


def adamw(
    rate: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Clipping by the global norm (0: none), then AdamW (Loshchilov and Hutter, 2019)."""
    update = optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay, mask=decays)
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update
