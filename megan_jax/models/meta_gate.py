"""The β-SwiGLU activation and the β of one layer, as pure functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from megan_jax.hypernet.modulation import ConditionState, MetaGate
from megan_jax.models.attention import MASKED_SCORE
from megan_jax.parallel.axes import constrain

# β lies in (-BETA_LIMIT, BETA_LIMIT), so that 1 + β stays positive (reference: 0.5 * tanh).
BETA_LIMIT = 0.5


def gated_activation(
    gate: jax.Array, up: jax.Array, beta: jax.Array | None, divided: bool = False
) -> jax.Array:
    """The hidden activation of a SwiGLU block under meta gates.

    `g·σ((1+β)g)·u`, which equals `silu((1+β)g)/(1+β)·u`; β = 0 gives SwiGLU bit for bit.

    Args:
      gate, up: g and u, [B, T, F].
      beta: [B, T, F], or None for the plain SwiGLU.
      divided: compute the second form, the reference's; the two round differently.

    Returns:
      [B, T, F] in the dtype of `gate`.
    """
    # float32 with and without β: the two then round alike, whatever the dtype of `gate`.
    wide = gate.astype(jnp.float32)
    if beta is None:
        activated = jax.nn.silu(wide)
    elif divided:
        activated = jax.nn.silu((1 + beta) * wide) / (1 + beta)
    else:
        activated = wide * jax.nn.sigmoid((1 + beta) * wide)
    return activated.astype(gate.dtype) * up


def attend_to_condition(
    query: jax.Array | None, condition: ConditionState, allowed: jax.Array, heads: int
) -> jax.Array:
    """Cross-attention from tokens to their condition; without a query, the condition's mean.

    Args:
      query: [B, T, A], scaled; None weighs all allowed condition tokens alike.
      condition: keys and values [B, C, A].
      allowed: [B, T, C]; a token that may see nothing gets a finite, meaningless value.
      heads: A = heads × head size.

    Returns:
      [B, T, A].
    """
    batch, tokens, width = condition.value.shape
    value = condition.value.reshape(batch, tokens, heads, width // heads)
    if query is None:
        scores = jnp.zeros((batch, 1, *allowed.shape[1:]), jnp.float32)
    else:
        query = query.reshape(batch, -1, heads, width // heads)
        key = condition.key.reshape(batch, tokens, heads, width // heads).astype(query.dtype)
        scores = jnp.einsum("bthd,bchd->bhtc", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(allowed[:, None], scores, MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = jnp.broadcast_to(weights, (batch, heads, *weights.shape[2:]))
    return jnp.einsum("bhtc,bchd->bthd", weights, value).reshape(batch, -1, width)


def layer_beta(x: jax.Array, gate: MetaGate, condition_index: jax.Array) -> jax.Array:
    """β of one layer: `½·tanh(W_β(attention(x, condition) + E))`, zero without a condition.

    Args:
      x: [B, T, D], the block's normalised input.
      gate: one layer's slice of the meta gate (leaves without [L]).
      condition_index: [B, T], the condition a token stands under; 0 is none.

    Returns:
      β [B, T, F] in float32, within ±`BETA_LIMIT`.
    """
    if gate.logits is not None:
        beta = jnp.broadcast_to(jnp.tanh(gate.logits), (*x.shape[:2], gate.logits.shape[-1]))
    else:
        ids = gate.condition_ids
        allowed = (ids[:, None, :] == condition_index[:, :, None]) & (ids[:, None, :] > 0)
        query = None if gate.weights.query is None else gate.weights.query(x)
        hidden = attend_to_condition(query, gate.condition, allowed, gate.heads)
        hidden = gate.weights.out(hidden.astype(x.dtype))
        if gate.layer_embedding is not None:
            hidden = hidden + gate.layer_embedding.astype(hidden.dtype)
        for linear in gate.weights.beta:
            hidden = jnp.tanh(linear(hidden).astype(jnp.float32)).astype(x.dtype)
        beta = constrain(hidden, "act_batch", "act_length", "act_mlp")
    # A zero attention output would not give β = 0 (biases, layer embeddings): switch it off.
    switch = (condition_index > 0)[..., None] & gate.active
    return BETA_LIMIT * beta.astype(jnp.float32) * switch
