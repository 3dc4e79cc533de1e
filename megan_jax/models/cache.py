"""The key/value cache of incremental decoding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from megan_jax.models.config import LlamaConfig


@struct.dataclass
class Cache:
    """Keys and values of every layer; slot s of a row holds its position s.

    Rows may have different lengths: a prompt is written from slot 0 on, right padding lands in
    slots that later tokens overwrite before any query reaches them.

    Attributes:
      key, value: [L, B, S, K, H].
    """

    key: jax.Array
    value: jax.Array

    @property
    def slots(self) -> int:
        """S: the most tokens a row may hold."""
        return self.key.shape[2]

    @classmethod
    def zeros(cls, config: LlamaConfig, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
        """An empty cache for `batch` rows of at most `slots` tokens."""
        shape = (
            config.num_hidden_layers,
            batch,
            slots,
            config.num_key_value_heads,
            config.head_dim,
        )
        return cls(key=jnp.zeros(shape, dtype), value=jnp.zeros(shape, dtype))


def write(cached: jax.Array, new: jax.Array, start: jax.Array) -> jax.Array:
    """Writes `new` [B, T, K, H] into `cached` [B, S, K, H] from slot `start` [B] on."""

    def one(row: jax.Array, update: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(row, update.astype(row.dtype), at, axis=0)

    return jax.vmap(one)(cached, new, start)
