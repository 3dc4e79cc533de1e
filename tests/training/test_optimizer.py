"""Learning rates and AdamW against closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.training.optimizer import adamw, decays, learning_rate


def by_hand(peak: float, steps: int, warmup: int, schedule: str, step: int) -> float:
    if step < warmup:
        return peak * step / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@given(
    steps=st.integers(1, 400),
    ratio=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 1.0])),
    schedule=st.sampled_from(["cosine", "constant"]),
    at=st.floats(0, 1.2),
)
def test_learning_rate(steps: int, ratio: float, schedule: str, at: float):
    step = int(at * steps)
    rate = learning_rate(3e-3, steps, ratio, schedule)
    wanted = by_hand(3e-3, steps, math.ceil(ratio * steps), schedule, step)
    assert float(rate(jnp.asarray(step))) == pytest.approx(wanted, rel=2e-5, abs=1e-9)


def test_learning_rate_at_known_steps():
    rate = learning_rate(1e-4, 100, 0.1)
    known = {0: 0.0, 1: 1e-5, 5: 5e-5, 10: 1e-4, 55: 5e-5, 100: 0.0, 200: 0.0}
    for step, value in known.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-11), step
    # Without a warm-up the first step has the peak.
    assert float(learning_rate(1e-4, 100, 0.0)(0)) == pytest.approx(1e-4)
    constant = learning_rate(1e-4, 100, 0.0, "constant")
    assert float(constant(0)) == float(constant(99)) == pytest.approx(1e-4)


def test_biases_do_not_decay():
    tree = {"hyper": {"beta": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "E": jnp.ones(3)}}
    assert decays(tree) == {"hyper": {"beta": {"kernel": True, "bias": False}, "E": True}}
    optimizer = adamw(lambda _: 0.1, weight_decay=0.5)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, tree), optimizer.init(tree), tree)
    np.testing.assert_allclose(updates["hyper"]["beta"]["kernel"], -0.05)
    np.testing.assert_allclose(updates["hyper"]["E"], -0.05)
    assert not np.asarray(updates["hyper"]["beta"]["bias"]).any()


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adamw_by_hand(clip: float):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(4)
    optimizer = adamw(
        lambda step: 0.1 / (1 + step), b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.2, clip_norm=clip
    )
    params = {"kernel": jnp.asarray(weight, jnp.float32)}
    state = optimizer.init(params)
    first, second = np.zeros(4), np.zeros(4)
    for step in range(4):
        gradient = rng.standard_normal(4) * 3
        updates, state = optimizer.update(
            {"kernel": jnp.asarray(gradient, jnp.float32)}, state, params
        )
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        if clip:
            gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        # Bias-corrected moments; the decay is decoupled and scaled by the rate.
        mean, square = first / (1 - 0.8 ** (step + 1)), second / (1 - 0.9 ** (step + 1))
        change = mean / (np.sqrt(square) + 1e-3) + 0.2 * weight
        weight = weight - 0.1 / (1 + step) * change
        np.testing.assert_allclose(params["kernel"], weight, rtol=2e-5)


def test_a_small_gradient_is_not_clipped():
    grads = {"kernel": jnp.asarray([0.3, -0.4])}
    params = {"kernel": jnp.zeros(2)}
    outcomes = []
    for clip in (0.0, 0.51, 0.49):
        optimizer = adamw(lambda _: 1.0, eps=1.0, clip_norm=clip)
        outcomes.append(optimizer.update(grads, optimizer.init(params), params)[0]["kernel"])
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    assert (np.abs(outcomes[2]) < np.abs(outcomes[0])).all()
