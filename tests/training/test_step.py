"""The optimizer step: what it changes, what it leaves alone, and accumulation."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
import pytest

from megan_jax.data.batch import assemble
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.training.loss import loss_fn, totals
from megan_jax.training.optimizer import adamw, learning_rate
from megan_jax.training.step import State, make_train_step
from megan_jax.training.trainable import join, split
from tests.models.tiny import (
    assert_trees_close,
    draw_condition,
    draw_segment,
    leaves,
    quick_jit,
    random_params,
    tiny_model,
)

MODEL = tiny_model(HypernetConfig(width=8, bias=True, penalty="l1", penalty_weight=0.1))
RATE = learning_rate(1e-2, 10, 0.2)
OPTIMIZER = adamw(RATE, weight_decay=0.1, clip_norm=0.05)


@functools.cache
def compiled(microbatches: int):
    return quick_jit(make_train_step(MODEL, OPTIMIZER, RATE, microbatches=microbatches))


@functools.cache
def a_batch():
    """Four rows with different numbers of labels, one of them without any."""
    rng = np.random.default_rng(0)
    one, two = draw_condition(rng, 3), draw_condition(rng, 4)
    rows = [
        [draw_segment(rng, 8, one), draw_segment(rng, 4)],
        [draw_segment(rng, 3, two)],
        [],
        [draw_segment(rng, 5, two), draw_segment(rng, 6, two)],
    ]
    return assemble(rows, 12, 7)


def start():
    params = random_params(MODEL)
    # Key biases have no gradient but rounding noise, which Adam would blow up.
    fixed = ["hyper/layer_embeddings/.*", "hyper/key_proj/bias", "hyper/attention/key/bias"]
    trainable, frozen = split(params, ["hyper/.*"], fixed)
    fixed = {"hyper": frozen.pop("hyper")}
    return State.create(trainable, OPTIMIZER, fixed), frozen


def test_only_the_trainable_part_changes():
    state, frozen = start()
    before = jax.tree.map(np.copy, (state.trainable, state.fixed, frozen))
    for number in range(3):
        assert int(state.step) == number
        state, _ = compiled(1)(state, frozen, a_batch())
    after = leaves(state.trainable)
    for path, value in leaves(before[0]).items():
        assert (value != after[path]).any(), path
    for old, new in ((before[1], state.fixed), (before[2], frozen)):
        for path, value in leaves(old).items():
            np.testing.assert_array_equal(value, leaves(new)[path])
    assert set(leaves(state.opt_state[1][0].mu)) == set(after)


def test_training_lowers_the_loss():
    state, frozen = start()
    losses = []
    for _ in range(10):
        state, metrics = compiled(1)(state, frozen, a_batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.01


def test_metrics():
    state, frozen = start()
    batch = a_batch()
    for number in range(2):
        state, metrics = compiled(1)(state, frozen, batch)
        assert float(metrics["labels"]) == batch.loss_mask.sum()
        assert float(metrics["tokens"]) == 8 + 4 + 3 + 5 + 6
        assert float(metrics["learning_rate"]) == pytest.approx(1e-2 * number / 2)
        assert float(metrics["grad_norm"]) > 0.05
        assert 1 < float(metrics["loss"]) < 10
        assert 0 < float(metrics["penalty"]) < 0.5
        assert all(value.dtype == np.float32 for value in metrics.values())


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_changes_nothing(parts: int):
    """The gradient norm and the moments show a wrong scale, which Adam alone would hide."""
    state, frozen = start()
    other = state
    for _ in range(2):
        state, metrics = compiled(1)(state, frozen, a_batch())
        other, others = compiled(parts)(other, frozen, a_batch())
        assert sorted(metrics) == sorted(others)
        for name, value in metrics.items():
            assert float(others[name]) == pytest.approx(float(value), rel=2e-6), name
    assert_trees_close(other.trainable, state.trainable, 1e-5)
    assert_trees_close(other.opt_state[1][0].mu, state.opt_state[1][0].mu, 1e-5)


def test_the_step_applies_the_gradient_of_the_loss():
    """One step of plain SGD against a gradient taken from outside."""
    optimizer = optax.sgd(1.0)
    step = quick_jit(make_train_step(MODEL, optimizer, lambda _: 1.0, loss_chunk=4))
    params = random_params(MODEL)
    trainable, frozen = split(params, ["hyper/beta_layers_0/.*", "target/norm/.*"])
    after, _ = step(State.create(trainable, optimizer), frozen, a_batch())

    @quick_jit
    def gradient(trainable):
        def loss(trainable):
            whole = join(frozen, trainable)
            return loss_fn(MODEL, whole, a_batch(), totals(MODEL, a_batch()), 100)[0]

        return jax.grad(loss)(trainable)

    wanted = jax.tree.map(lambda value, grad: value - grad, trainable, gradient(trainable))
    assert_trees_close(after.trainable, wanted, 1e-6)
