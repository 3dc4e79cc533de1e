"""Masks and grouped-query attention against loops over heads and keys."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.models import attention
from tests.models import plain


def test_self_mask_by_definition():
    rng = np.random.default_rng(0)
    positions = rng.integers(0, 5, (2, 9))
    segments = rng.integers(0, 3, (2, 9))
    keys = rng.random((2, 9)) < 0.7
    mask = attention.self_mask(jnp.asarray(positions), jnp.asarray(segments), jnp.asarray(keys))
    without = attention.self_mask(jnp.asarray(positions), jnp.asarray(segments))
    for b, t, s in np.ndindex(2, 9, 9):
        related = segments[b, t] == segments[b, s] and positions[b, s] <= positions[b, t]
        assert bool(without[b, t, s]) == related
        assert bool(mask[b, t, s]) == (related and keys[b, s])


def test_cache_mask_hides_what_is_behind_a_row():
    mask = attention.cache_mask(jnp.asarray([[2, 3], [0, 1]]), 5)
    np.testing.assert_array_equal(
        mask,
        [[[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]],
    )


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_attend_equals_the_slow_one(heads: int, groups: int):
    rng = np.random.default_rng(1)
    query = rng.standard_normal((2, 3, heads, 6)).astype(np.float32)
    key, value = rng.standard_normal((2, 2, 5, groups, 6)).astype(np.float32)
    mask = rng.random((2, 3, 5)) < 0.6
    mask[..., 0] = True
    out = np.asarray(attention.attend(query, key, value, jnp.asarray(mask)))
    for b, t, n in np.ndindex(2, 3, heads):
        k = n // (heads // groups)
        seen = [s for s in range(5) if mask[b, t, s]]
        scores = [float(query[b, t, n] @ key[b, s, k]) / math.sqrt(6) for s in seen]
        weights = plain.softmax(scores)
        slow = sum(w * value[b, s, k] for w, s in zip(weights, seen, strict=True))
        np.testing.assert_allclose(out[b, t, n], slow, atol=1e-5)


def test_a_query_that_sees_nothing_is_finite():
    x = jnp.ones((1, 2, 2, 4))
    out = attention.attend(x, x, x, jnp.zeros((1, 2, 2), bool))
    assert np.isfinite(np.asarray(out)).all()
