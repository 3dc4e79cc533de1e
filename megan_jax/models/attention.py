"""Grouped-query attention, and which key each query may see."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Finite, so that a query without any key gets a uniform mean and not NaN.
MASKED_SCORE = -1e30


def self_mask(
    positions: jax.Array, segment_ids: jax.Array, key_mask: jax.Array | None = None
) -> jax.Array:
    """Which keys of the same rows each query sees, without a cache.

    Args:
      positions: [B, T] position within the segment, in tokens.
      segment_ids: [B, T]; tokens see their own segment only.
      key_mask: [B, T], False removes a key (Hugging Face's `attention_mask`); None keeps all.

    Returns:
      [B, T, S] booleans: same segment, not later, not removed.
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    causal = positions[:, :, None] >= positions[:, None, :]
    allowed = same & causal
    return allowed if key_mask is None else allowed & key_mask[:, None, :].astype(bool)


def cache_mask(positions: jax.Array, slots: int) -> jax.Array:
    """[B, T, S] for a cache in which slot s holds the key of position s.

    Slots behind a row's position are stale or empty; causality alone hides them.
    """
    return jnp.arange(slots)[None, None, :] <= positions[:, :, None]


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Scaled dot-product attention with the softmax in float32.

    Args:
      query: [B, T, N, H].
      key, value: [B, S, K, H]; query head n reads key head n // (N / K).
      mask: [B, T, S], True where the query sees the key.

    Returns:
      [B, T, N, H] in the query's dtype.
    """
    batch, length, heads, size = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, length, groups, heads // groups, size)
    scores = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * size**-0.5, MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bkgts,bskh->btkgh", weights, value)
    return out.reshape(batch, length, heads, size)
