"""The β-SwiGLU activation: closed forms, and bit-equality with SwiGLU without a condition."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.hypernet.config import HypernetConfig
from megan_jax.hypernet.modulation import Modulation, merge
from megan_jax.models.decoder import Precision
from megan_jax.models.meta_gate import gated_activation
from megan_jax.models.model import Model
from tests.models.tiny import quick_jit, random_params, tiny_model

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


ROWS, LENGTH = 4, 9


def logits(model: Model, tokens: jax.Array, params: dict, **kwargs) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
    out = model.run_target(params, tokens, positions, jnp.ones_like(tokens), **kwargs)
    return model.unembed(params, out.hidden)


def tiny_case(dtype, divided: bool = False):
    h = HypernetConfig(width=8, beta_layers=2, bias=True, divided_activation=divided)
    model = tiny_model(h, Precision(compute=dtype))
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), random_params(model))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 37, (ROWS, LENGTH)).astype(np.int32)
    condition = rng.integers(0, 37, (ROWS, 5)).astype(np.int32)
    return model, params, tokens, condition


@pytest.mark.parametrize(
    ("dtype", "divided"),
    [(jnp.float32, False), (jnp.float32, True), (jnp.bfloat16, False)],
    ids=["float32", "float32_divided", "bfloat16"],
)
def test_no_condition_is_the_base_model_bit_for_bit(dtype, divided: bool):
    model, params, tokens, condition = tiny_case(dtype, divided)
    base = jax.jit(functools.partial(logits, Model(model.config, None, model.precision), tokens))(
        params
    )

    @jax.jit
    def gated(params: dict, ids: jax.Array, index: jax.Array) -> jax.Array:
        modulation = model.modulate(params, condition, ids)
        return logits(model, tokens, params, modulation=modulation, condition_index=index)

    ones, everywhere = np.ones_like(condition), np.ones_like(tokens)
    under = gated(params, ones, everywhere)
    assert np.abs(np.asarray(under - base)).max() > 0.05
    np.testing.assert_array_equal(gated(params, ones, 0 * everywhere), base)
    np.testing.assert_array_equal(gated(params, 0 * ones, 0 * everywhere), base)
    # Rows without a condition beside rows with one.
    mixed = gated(params, ones, everywhere * np.asarray([[1], [0], [1], [0]]))
    np.testing.assert_array_equal(mixed[1::2], base[1::2])
    np.testing.assert_array_equal(mixed[::2], under[::2])
    # A token without a condition in a row with one; the other rows do not hear of it.
    index = everywhere.copy()
    index[0, -1] = 0
    single = gated(params, ones, index)
    np.testing.assert_array_equal(single[:, :-1], under[:, :-1])
    assert (np.asarray(single[0, -1]) != np.asarray(under[0, -1])).any()


def test_the_null_modulation_compiles_to_the_base_model():
    """The same program gives the same bits."""
    model, params, tokens, condition = tiny_case(jnp.float32)
    base = Model(model.config)
    none = Model(model.config, HypernetConfig(kind="none"))

    def program(function) -> str:
        return str(jax.make_jaxpr(function)(params))

    wanted = program(lambda p: base.apply(p, tokens).logits)
    assert program(lambda p: model.apply(p, tokens).logits) == wanted
    assert none.modulate(params, condition, condition) == Modulation()
    assert program(lambda p: model.apply(p, tokens, condition_ids=condition).logits) != wanted
    plain = program(lambda p: logits(base, tokens, p))
    assert program(lambda p: logits(model, tokens, p, modulation=Modulation())) == plain
    assert program(lambda p: logits(model, tokens, p, modulation=None)) == plain


def test_the_two_forms_agree_to_rounding():
    h = HypernetConfig(width=8)
    model = tiny_model(h)
    params = random_params(model)
    divided = Model(model.config, dataclasses.replace(h, divided_activation=True))
    rng = np.random.default_rng(0)
    tokens, condition = rng.integers(0, 37, (2, 2, 6)).astype(np.int32)
    one, two = (
        quick_jit(m.apply)(params, tokens, condition_ids=condition).logits for m in (model, divided)
    )
    np.testing.assert_allclose(one, two, atol=2e-5)


def test_modulation_splits_and_merges():
    rng = np.random.default_rng(0)
    for kind in ("shared", "layerwise", "pooled", "static"):
        model = tiny_model(HypernetConfig(kind=kind, width=8))
        params = random_params(model)
        ids = jnp.ones((2, 4), jnp.int32)
        shapes = jax.eval_shape(model.modulate, params, ids, ids)
        modulation = jax.tree.map(lambda x: rng.random(x.shape), shapes)
        scanned, broadcast = modulation.split()
        layers = {leaf.shape[0] for leaf in jax.tree.leaves(scanned)}
        assert layers == {3}, kind
        whole = merge(scanned, broadcast)
        same = jax.tree.map(lambda x, y: bool((x == y).all()), whole, modulation)
        assert all(jax.tree.leaves(same))
        assert jax.tree.structure(whole) == jax.tree.structure(modulation)
    assert merge(*Modulation().split()) == Modulation()
