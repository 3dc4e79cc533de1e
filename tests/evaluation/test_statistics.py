"""Bootstrap intervals against closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pytest

from megan_jax.errors import UserError
from megan_jax.evaluation.statistics import (
    Interval,
    macro_average,
    mean_interval,
    paired_interval,
    pooled_interval,
    weighted_mean,
)


def normal_losses(n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, 50, n)
    shared = rng.normal(3, 1, n)
    return (shared + rng.normal(-0.1, 0.3, n)) * tokens, shared * tokens, tokens


def test_weighted_mean_is_a_ratio_of_sums():
    assert weighted_mean([2.0, 9.0], [1, 3]) == 11 / 4


def test_equal_tokens_give_the_normal_interval_of_a_mean():
    difference = np.random.default_rng(1).normal(0.2, 1.0, 400)
    found = paired_interval(difference, np.zeros(400), np.ones(400), resamples=20_000)
    error = difference.std() / np.sqrt(400)
    assert found.mean == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)


def test_ratio_interval_follows_the_delta_method():
    a, b, tokens = normal_losses(600)
    found = paired_interval(a, b, tokens, resamples=20_000)
    ratio = (a - b).sum() / tokens.sum()
    error = np.sqrt((((a - b) - ratio * tokens) ** 2).sum()) / tokens.sum()
    assert found.mean == pytest.approx(ratio)
    assert found.low == pytest.approx(ratio - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(ratio + 1.96 * error, abs=0.1 * error)


def test_interval_covers_the_truth_in_95_percent():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        found = paired_interval(rng.normal(0.5, 1, 60), np.zeros(60), np.ones(60), resamples=500)
        hits += found.low <= 0.5 <= found.high
    # Binomial(300, 0.95) stays within 270 and 297 but once in a thousand.
    assert 270 <= hits <= 297


def test_pairing_cancels_what_both_share():
    a, b, tokens = normal_losses(100)
    paired = paired_interval(a, b, tokens)
    rng = np.random.default_rng(0)
    unpaired = paired_interval(a, rng.permutation(b / tokens) * tokens, tokens)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_same_seed_same_interval_and_order_of_sides_flips_the_sign():
    a, b, tokens = normal_losses(50)
    first = paired_interval(a, b, tokens, seed=3)
    assert first == paired_interval(a, b, tokens, seed=3)
    assert first != paired_interval(a, b, tokens, seed=4)
    back = paired_interval(b, a, tokens, seed=3)
    assert (back.mean, back.low, back.high) == pytest.approx((-first.mean, -first.high, -first.low))


def test_chunks_do_not_change_the_draws(monkeypatch):
    a, b, tokens = normal_losses(50)
    whole = paired_interval(a, b, tokens)
    monkeypatch.setattr("megan_jax.evaluation.statistics._CHUNK", 50 * 7)
    assert paired_interval(a, b, tokens) == whole


def test_no_difference_and_a_constant_one():
    tokens = np.arange(1, 11)
    assert paired_interval(tokens, tokens, tokens) == Interval(0.0, 0.0, 0.0)
    found = paired_interval(3.0 * tokens, 1.0 * tokens, tokens)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))
    assert found.excludes_zero() and not Interval(0.0, 0.0, 0.0).excludes_zero()


def test_strata_keep_the_difference_between_groups_out_of_the_interval():
    one, two = np.full(20, -1.0), np.full(60, 1.0)
    groups = [(one, 0 * one, np.ones(20)), (two, 0 * two, np.ones(60))]
    assert pooled_interval(groups) == Interval(0.5, 0.5, 0.5)
    assert pooled_interval(groups, macro=True) == Interval(0.0, 0.0, 0.0)


def test_one_group_pooled_is_that_group():
    a, b, tokens = normal_losses(30)
    assert pooled_interval([(a, b, tokens)], seed=5) == paired_interval(a, b, tokens, seed=5)


def test_mean_interval_of_accuracy():
    right = np.array([1] * 60 + [0] * 40)
    found = mean_interval(right, resamples=20_000)
    error = np.sqrt(0.6 * 0.4 / 100)
    assert found.mean == pytest.approx(0.6)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert mean_interval([1.0, 4.0], weights=[3, 1]).mean == pytest.approx(7 / 4)


def test_macro_average():
    assert macro_average({"a": 1.0, "b": 3.0}) == 2.0
    assert np.isnan(macro_average({}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "no examples"),
        (([1.0], [1.0, 2.0], [1]), "1 and 2 were given"),
        (([1.0, 2.0], [1.0, 2.0], [1]), "2 losses but 1 token counts"),
        (([1.0, np.nan], [1.0, 2.0], [1, 1]), "a_sum holds a value that is not finite.*example 1"),
        (([1.0, 2.0], [1.0, 2.0], [1, 0]), "Example 1 has no response tokens"),
        (([[1.0]], [[1.0]], [1]), "flat list"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        paired_interval(*arguments)


def test_errors_of_settings():
    with pytest.raises(UserError, match="at least 100 resamples, not 5"):
        paired_interval([1.0], [1.0], [1], resamples=5)
    with pytest.raises(UserError, match="no group"):
        pooled_interval([])
