"""Rotary position embeddings with the scalings of the Llama family."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from megan_jax.errors import UserError
from megan_jax.models.config import LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> np.ndarray:
    """Angular frequencies [H/2] in radians per token, after scaling.

    `default`, `linear`, `llama3` and `dynamic` as `transformers.modeling_rope_utils` defines them;
    `dynamic` equals `default` up to `max_position_embeddings`, the only range offered here.
    """
    half = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (np.float32(1.0) / np.float32(config.rope_theta) ** half).astype(np.float32)
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        return frequencies / np.float32(scaling.factor)
    if scaling.kind == "llama3":
        old = scaling.original_max_position_embeddings
        wavelength = 2 * math.pi / frequencies
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        # 0 where the wavelength exceeds old/low (stretched), 1 where it is below old/high (kept).
        kept = np.clip((old / wavelength - low) / (high - low), 0.0, 1.0)
        blended = (1 - kept) * frequencies / scaling.factor + kept * frequencies
        return blended.astype(np.float32)
    return frequencies


def check_length(config: LlamaConfig, length: int) -> None:
    """Refuses sequences whose positions `dynamic` scaling would rescale.

    Raises:
      UserError: `dynamic` scaling and `length` beyond `max_position_embeddings` tokens.
    """
    limit = config.max_position_embeddings
    if config.rope_scaling.kind == "dynamic" and length > limit:
        raise UserError(
            f"{length} tokens exceed max_position_embeddings ({limit}): with 'dynamic' rope "
            "scaling the frequencies then change with the length, which a key/value cache cannot "
            "follow. Shorten the input or choose another rope scaling."
        )


def tables(config: LlamaConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B, T, H/2] in float32 of the rotations at `positions` [B, T]."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the halves of each head: x [B, T, N, H], tables [B, T, H/2] -> [B, T, N, H]."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
