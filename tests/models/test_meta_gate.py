"""The β-SwiGLU activation: closed forms, and bit-equality with SwiGLU without a condition."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.hypernet.config import HypernetConfig
from megan_jax.hypernet.modulation import Modulation
from megan_jax.models.decoder import Precision
from megan_jax.models.meta_gate import gated_activation
from megan_jax.models.model import Model
from tests.models.tiny import random_params, tiny_model

DTYPES = [jnp.float32, jnp.bfloat16]


@pytest.fixture(scope="module")
def gates():
    rng = np.random.default_rng(0)
    gate, up = 3 * rng.standard_normal((2, 2, 50, 64)).astype(np.float32)
    return gate, up, rng.uniform(-0.5, 0.5, gate.shape).astype(np.float32)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_beta_is_swiglu_bit_for_bit(gates, dtype, divided: bool):
    gate, up = (jnp.asarray(x, dtype) for x in gates[:2])
    activation = jax.jit(gated_activation, static_argnames="divided")
    base = activation(gate, up, None)
    zeros = jnp.zeros(gate.shape, jnp.float32)
    np.testing.assert_array_equal(activation(gate, up, zeros, divided=divided), base)
    # A zero times a negative number is a negative zero.
    np.testing.assert_array_equal(activation(gate, up, -zeros, divided=divided), base)
    assert base.dtype == dtype


def test_closed_forms(gates):
    gate, up, beta = (x.astype(np.float64) for x in gates)
    slow = gate / (1 + np.exp(-(1 + beta) * gate)) * up
    plain_swiglu = gate / (1 + np.exp(-gate)) * up
    product = gated_activation(*gates)
    divided = gated_activation(*gates, divided=True)
    np.testing.assert_allclose(product, slow, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(divided, slow, rtol=2e-6, atol=1e-6)
    assert (np.asarray(product) != np.asarray(divided)).any()
    assert np.abs(np.asarray(product) - plain_swiglu).max() > 0.1
    # β → ∞ would be a ReLU, β = -1 a bilinear unit.
    ones = np.ones_like(gates[2])
    np.testing.assert_allclose(gated_activation(*gates[:2], -ones), gate * up / 2, rtol=1e-5)
    relu = np.maximum(gate, 0) * up
    np.testing.assert_allclose(gated_activation(*gates[:2], 1e5 * ones), relu, atol=1e-4)


@pytest.mark.parametrize("divided", [False, True], ids=["product", "divided"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_condition_is_the_base_model_bit_for_bit(dtype, divided: bool):
    h = HypernetConfig(width=8, beta_layers=2, bias=True, divided_activation=divided)
    model = tiny_model(h, Precision(compute=dtype))
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), random_params(model))
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 37, (4, 9)), jnp.int32)
    condition = jnp.asarray(rng.integers(0, 37, (4, 5)), jnp.int32)
    ones = jnp.ones_like(condition)
    positions = jnp.broadcast_to(jnp.arange(9), tokens.shape)

    def logits(model: Model, params: dict, **kwargs) -> jax.Array:
        out = model.run_target(params, tokens, positions, jnp.ones_like(tokens), **kwargs)
        return model.unembed(params, out.hidden)

    base = jax.jit(functools.partial(logits, Model(model.config, None, model.precision)))(params)
    none = Model(model.config, HypernetConfig(kind="none"), model.precision)

    def gated(params: dict, ids: jax.Array, index: jax.Array) -> jax.Array:
        modulation = model.modulate(params, condition, ids)
        return logits(model, params, modulation=modulation, condition_index=index)

    gated = jax.jit(gated)
    under = gated(params, ones, jnp.ones_like(tokens))
    assert np.abs(np.asarray(under - base)).max() > 0.05
    np.testing.assert_array_equal(gated(params, ones, jnp.zeros_like(tokens)), base)
    np.testing.assert_array_equal(gated(params, 0 * ones, jnp.zeros_like(tokens)), base)
    # Rows without a condition beside rows with one.
    mixed = gated(params, ones, jnp.ones_like(tokens) * jnp.asarray([[1], [0], [1], [0]]))
    np.testing.assert_array_equal(mixed[1::2], base[1::2])
    np.testing.assert_array_equal(mixed[::2], under[::2])
    if not divided:
        null = jax.jit(functools.partial(logits, model, modulation=Modulation()))
        np.testing.assert_array_equal(null(params), base)
        off = jax.jit(none.apply)(params, tokens, condition_ids=condition).logits
        np.testing.assert_array_equal(off, base)
        unconditioned = jax.jit(model.apply)
        np.testing.assert_array_equal(unconditioned(params, tokens).logits, base)
        masked = unconditioned(params, tokens, None, condition, jnp.zeros_like(condition)).logits
        np.testing.assert_array_equal(masked, base)


def test_the_two_forms_agree_to_rounding():
    h = HypernetConfig(width=8)
    model = tiny_model(h)
    params = random_params(model)
    divided = Model(model.config, dataclasses.replace(h, divided_activation=True))
    rng = np.random.default_rng(0)
    tokens, condition = rng.integers(0, 37, (2, 2, 6)).astype(np.int32)
    one, two = (
        jax.jit(m.apply)(params, tokens, condition_ids=condition).logits for m in (model, divided)
    )
    np.testing.assert_allclose(one, two, atol=2e-5)


def test_modulation_splits_and_merges():
    from megan_jax.hypernet.modulation import merge

    for kind in ("shared", "layerwise", "pooled", "static"):
        model = tiny_model(HypernetConfig(kind=kind, width=8))
        params = random_params(model)
        ids = jnp.ones((2, 4), jnp.int32)
        modulation = model.modulate(params, ids, ids)
        scanned, broadcast = modulation.split()
        layers = {leaf.shape[0] for leaf in jax.tree.leaves(scanned)}
        assert layers == {3}, kind
        whole = merge(scanned, broadcast)
        same = jax.tree.map(lambda x, y: bool((x == y).all()), whole, modulation)
        assert all(jax.tree.leaves(same))
        assert jax.tree.structure(whole) == jax.tree.structure(modulation)
    assert merge(*Modulation().split()) == Modulation()
