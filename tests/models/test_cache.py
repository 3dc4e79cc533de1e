"""Prefill and cached decode equal the full forward."""

from __future__ import annotations

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.cache import Cache, write
from megan_jax.models.model import Model
from tests.models.tiny import TINY, quick_jit, random_params, tiny_model

LENGTHS = np.asarray([11, 7, 9])


@functools.cache
def programs(model: Model):
    def full(params, tokens, condition, ids):
        return model.apply(params, tokens, None, condition, ids).logits

    def chunk(params, modulation, index, tokens, positions, cache):
        out = model.run_target(
            params,
            tokens,
            positions,
            jnp.ones_like(tokens),
            modulation=modulation,
            condition_index=jnp.broadcast_to(index, tokens.shape),
            cache=cache,
        )
        return model.unembed(params, out.hidden), out.cache

    return quick_jit(full), quick_jit(model.modulate), quick_jit(chunk)


@pytest.fixture(scope="module", params=["shared", "layerwise"])
def setting(request):
    model = tiny_model(HypernetConfig(kind=request.param, width=8, heads=2), attention_bias=True)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, TINY.vocab_size, (3, 11)).astype(np.int32)
    condition = rng.integers(0, TINY.vocab_size, (3, 5)).astype(np.int32)
    # Row 1 has a shorter condition, row 2 none.
    ids = np.asarray([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    return model, random_params(model), tokens, condition, ids


@pytest.mark.parametrize("split", [1, 6])
def test_cached_logits_equal_the_full_forward(setting, split: int):
    """A prefill of `split` tokens, one chunk of two, then token by token."""
    model, params, tokens, condition, ids = setting
    full, modulate, chunk = programs(model)
    wanted = np.asarray(full(params, tokens, condition, ids))
    modulation, index = modulate(params, condition, ids), ids.max(axis=1, keepdims=True)
    cache = model.empty_cache(3, 16)
    edges = [0, split, split + 2, *range(split + 3, 12)]
    for start, stop in itertools.pairwise(edges):
        positions = np.broadcast_to(np.arange(start, stop), (3, stop - start))
        logits, cache = chunk(params, modulation, index, tokens[:, start:stop], positions, cache)
        np.testing.assert_allclose(logits, wanted[:, start:stop], atol=1e-5)


def test_rows_of_different_lengths(setting):
    """Prompts padded on the right, each row going on at its own position."""
    model, params, tokens, condition, ids = setting
    full, modulate, chunk = programs(model)
    wanted = np.asarray(full(params, tokens, condition, ids))
    modulation, index = modulate(params, condition, ids), ids.max(axis=1, keepdims=True)
    prompts = LENGTHS - 4
    padded = np.where(np.arange(7) < prompts[:, None], tokens[:, :7], 36)
    cache = model.empty_cache(3, 16)
    positions = np.broadcast_to(np.arange(7), (3, 7))
    logits, cache = chunk(params, modulation, index, padded, positions, cache)
    for row in range(3):
        np.testing.assert_allclose(
            logits[row, : prompts[row]], wanted[row, : prompts[row]], atol=1e-5
        )
    for step in range(4):
        at = (prompts + step)[:, None]
        token = np.take_along_axis(tokens, at, axis=1)
        logits, cache = chunk(params, modulation, index, token, at, cache)
        for row in range(3):
            np.testing.assert_allclose(logits[row, 0], wanted[row, at[row, 0]], atol=1e-5)


def test_write_places_each_row_at_its_own_slot():
    cached = jnp.arange(2 * 5 * 1 * 2, dtype=jnp.float32).reshape(2, 5, 1, 2)
    new = -jnp.ones((2, 2, 1, 2))
    out = np.asarray(write(cached, new, jnp.asarray([3, 1])))
    wanted = np.asarray(cached).copy()
    wanted[0, 3:5], wanted[1, 1:3] = -1, -1
    np.testing.assert_array_equal(out, wanted)


def test_shape_and_dtype_of_an_empty_cache():
    cache = Cache.zeros(TINY, 2, 7, jnp.bfloat16)
    assert cache.key.shape == cache.value.shape == (3, 2, 7, 2, 6)
    assert cache.slots == 7
    assert cache.key.dtype == jnp.bfloat16
