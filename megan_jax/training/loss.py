"""The loss of a batch: cross-entropy where there is a label, and the penalty on β."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from megan_jax.data.batch import Batch
from megan_jax.models.decoder import TargetOutput
from megan_jax.models.model import Model, Params


@struct.dataclass
class LossTotals:
    """What a batch is divided by: counted over the whole global batch, before it is split.

    Attributes:
      labels: number of labelled tokens.
      penalised: number of β values under the penalty, over layers, tokens and channels.
    """

    labels: jax.Array
    penalised: jax.Array


def token_nll(
    unembed: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
    chunk: int,
) -> jax.Array:
    """Negative log-likelihood of every labelled token, without ever holding [B, T, V].

    Each row's labelled tokens are moved to its front; logits are computed for slices of all rows
    and recomputed in the backward pass, and slices without a label are skipped.

    Args:
      unembed: [..., D] -> logits [..., V] in float32.
      hidden: [B, T, D].
      targets, mask: [B, T]; the label of a token and whether it has one.
      chunk: tokens whose logits exist at a time.

    Returns:
      [B, T] in nats, 0 without a label.
    """
    batch, length, _ = hidden.shape
    mask = mask.astype(bool)
    width = max(1, min(length, chunk // batch))
    slices = -(-length // width)
    padded = slices * width
    order = jnp.argsort(~mask, axis=1, stable=True)
    order = jnp.pad(order, ((0, 0), (0, padded - length)))
    counts = jnp.sum(mask, axis=1)

    @jax.checkpoint
    def slice_nll(hidden: jax.Array, positions: jax.Array) -> jax.Array:
        logits = unembed(jnp.take_along_axis(hidden, positions[..., None], axis=1))
        labels = jnp.take_along_axis(targets, positions, axis=1)
        label_logits = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - label_logits

    def step(_: None, i: jax.Array) -> tuple[None, jax.Array]:
        positions = jax.lax.dynamic_slice_in_dim(order, i * width, width, axis=1)
        live = i * width < jnp.max(counts)
        nothing = jnp.zeros((batch, width), jnp.float32)
        return None, jax.lax.cond(live, slice_nll, lambda *_: nothing, hidden, positions)

    _, parts = jax.lax.scan(step, None, jnp.arange(slices))
    front = jnp.moveaxis(parts, 0, 1).reshape(batch, padded)[:, :length]
    front = jnp.where(jnp.arange(length) < counts[:, None], front, 0.0)
    back = jnp.argsort(order[:, :length], axis=1)
    return jnp.take_along_axis(front, back, axis=1)


def penalty_mask(model: Model, batch: Batch) -> jax.Array:
    """[B, T]: the tokens whose β is penalised."""
    h = model.hypernet_config
    if h is not None and h.penalty_includes_padding:
        return jnp.ones_like(batch.tokens)
    real = batch.segment_ids > 0
    if batch.key_mask is not None:
        real = real & (batch.key_mask > 0)
    return (real & (batch.condition_index > 0)).astype(jnp.int32)


def totals(model: Model, batch: Batch) -> LossTotals:
    """The denominators of a whole global batch."""
    start = model.hypernet_config.start_layer if model.hypernet_config else 0
    values = (model.config.num_hidden_layers - start) * model.config.intermediate_size
    tokens = jnp.sum(penalty_mask(model, batch)).astype(jnp.float32)
    return LossTotals(
        labels=jnp.maximum(jnp.sum(batch.loss_mask), 1).astype(jnp.float32),
        penalised=jnp.maximum(tokens * values, 1.0),
    )


def forward(model: Model, params: Params, batch: Batch, penalty: str = "none") -> TargetOutput:
    """Runs both networks on a batch."""
    modulation = model.modulate(params, batch.condition_tokens, batch.condition_ids)
    return model.run_target(
        params,
        batch.tokens,
        batch.positions,
        batch.segment_ids,
        modulation=modulation,
        condition_index=batch.condition_index,
        key_mask=batch.key_mask,
        penalty=penalty,
        penalty_mask=penalty_mask(model, batch),
    )


def batch_nll(model: Model, params: Params, batch: Batch, chunk: int) -> jax.Array:
    """Negative log-likelihood [B, T] of the labelled tokens of a batch."""
    out = forward(model, params, batch)
    return token_nll(
        lambda x: model.unembed(params, x), out.hidden, batch.targets, batch.loss_mask, chunk
    )


def loss_fn(
    model: Model, params: Params, batch: Batch, total: LossTotals, chunk: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The share of a (micro)batch in the loss of the global batch.

    `Σ nll / labels + λ · Σ size(β) [/ penalised]`, the division of the penalty for
    `penalty_reduction="mean"` only. Shares add up, so that packing and accumulation change
    nothing.

    Returns:
      The loss share, and the shares of `loss` and `penalty` for the metrics.
    """
    h = model.hypernet_config
    kind = h.penalty if h is not None and h.penalty_weight else "none"
    out = forward(model, params, batch, penalty=kind)
    nll = token_nll(
        lambda x: model.unembed(params, x), out.hidden, batch.targets, batch.loss_mask, chunk
    )
    loss = jnp.sum(nll) / total.labels
    penalty = out.penalty
    if h is not None and h.penalty_reduction == "mean":
        penalty = penalty / total.penalised
    weight = h.penalty_weight if h is not None else 0.0
    return loss + weight * penalty, {"loss": loss, "penalty": penalty}
