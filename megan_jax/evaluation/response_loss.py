"""The response loss of every example under its condition, another one, and none."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from megan_jax.data.batch import Batch
from megan_jax.data.evaluation_rows import EvaluationSource
from megan_jax.models.model import Model, Params
from megan_jax.training.loss import batch_nll

# What fraction of a batch's logits exist at a time; see `training.loss.token_nll`.
LOSS_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class ResponseLosses:
    """Losses of N examples; examples that were not measured have no tokens.

    Attributes:
      nll: [N] summed negative log-likelihood of the response tokens, in nats.
      tokens: [N] response tokens.
      processed: tokens that the model read for this.
    """

    nll: np.ndarray
    tokens: np.ndarray
    processed: int


@functools.partial(jax.jit, static_argnames=("model", "segments"))
def segment_losses(
    model: Model, params: Params, batch: Batch, *, segments: int
) -> tuple[jax.Array, jax.Array]:
    """Summed response loss and number of response tokens of each segment: two [B, segments]."""
    nll = batch_nll(model, params, batch, LOSS_CHUNK)
    owner = jax.nn.one_hot(batch.segment_ids - 1, segments, dtype=jnp.float32)
    labelled = batch.loss_mask.astype(jnp.float32)
    return jnp.einsum("bt,bts->bs", nll, owner), jnp.einsum("bt,bts->bs", labelled, owner)


def response_losses(
    model: Model,
    params: Params,
    source: EvaluationSource,
    conditions: Sequence[str],
    put: Callable[[Batch], Batch] = lambda batch: batch,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, ResponseLosses]:
    """Measures every example once under each kind of condition.

    Args:
      model, params: what is measured.
      source: the examples; their rows are the same under every kind.
      conditions: kinds, see `megan_jax.data.evaluation_rows.CONDITIONS`.
      put: places a batch on the device mesh.
      on_batch: called after each batch with the number of tokens that it held.

    Returns:
      For each kind, arrays over the examples in the order of the source's table.
    """
    count = len(source.table.index)
    measured = {}
    for condition in conditions:
        nll, tokens, processed = np.zeros(count), np.zeros(count), 0
        for batch, numbers in source.batches(condition):
            sums, labels = segment_losses(model, params, put(batch), segments=numbers.shape[1])
            sums, labels = np.asarray(sums), np.asarray(labels)
            known = numbers >= 0
            nll[numbers[known]] = sums[known]
            tokens[numbers[known]] = labels[known]
            held = int((batch.segment_ids > 0).sum())
            processed += held
            if on_batch is not None:
                on_batch(held)
        measured[condition] = ResponseLosses(nll, tokens, processed)
    return measured
