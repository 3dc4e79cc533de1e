"""The state of training and the one step that changes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from megan_jax.data.batch import Batch
from megan_jax.models.model import Model
from megan_jax.training.loss import loss_fn, totals
from megan_jax.training.trainable import Tree, join


@struct.dataclass
class State:
    """Everything that a checkpoint must hold.

    Attributes:
      step: optimizer steps done.
      trainable: the parameters under training.
      opt_state: optax's state for them.
      fixed: hypernetwork parameters that are not trained but have no other source.
    """

    step: jax.Array
    trainable: Tree
    opt_state: Any
    fixed: Tree

    @classmethod
    def create(
        cls, trainable: Tree, optimizer: optax.GradientTransformation, fixed: Tree | None = None
    ) -> State:
        """The state before the first step."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            trainable=trainable,
            opt_state=optimizer.init(trainable),
            fixed=fixed or {},
        )


Step = Callable[[State, Tree, Batch], tuple[State, dict[str, jax.Array]]]


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    *,
    microbatches: int = 1,
    loss_chunk: int = 256,
) -> Step:
    """Builds `step(state, frozen, batch) -> (state, metrics)`, a pure function to be jitted.

    Only `state.trainable` is differentiated. The batch is run in `microbatches` equal parts whose
    gradients are summed; denominators are those of the whole batch.

    Metrics (float32 scalars): `loss` (mean over labelled tokens), `penalty` (on β, before its
    weight), `grad_norm` (global, before clipping), `learning_rate` (of this step), `labels`,
    `tokens` (real tokens in the batch).
    """

    def step(state: State, frozen: Tree, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        total = totals(model, batch)

        def share(trainable: Tree, part: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
            params = join(frozen, state.fixed, trainable)
            return loss_fn(model, params, part, total, loss_chunk)

        gradient = jax.grad(share, has_aux=True)
        if microbatches == 1:
            grads, metrics = gradient(state.trainable, batch)
        else:
            # Every part takes each microbatches-th row: rows stay on the devices they lie on.
            parts = jax.tree.map(
                lambda x: jnp.moveaxis(x.reshape(-1, microbatches, *x.shape[1:]), 1, 0), batch
            )

            def add(carry: Any, part: Batch) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, gradient(state.trainable, part)), None

            shapes = jax.eval_shape(gradient, state.trainable, jax.tree.map(lambda x: x[0], parts))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (grads, metrics), _ = jax.lax.scan(add, zeros, parts)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        metrics = {
            **metrics,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate(state.step),
            "labels": total.labels,
            "tokens": jnp.sum(batch.segment_ids > 0).astype(jnp.float32),
        }
        state = state.replace(
            step=state.step + 1,
            trainable=optax.apply_updates(state.trainable, updates),
            opt_state=opt_state,
        )
        return state, metrics

    return step
