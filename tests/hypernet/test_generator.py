"""β and logits of every variant against a slow plain version that folds nothing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.hypernet.generator import embed_condition, unit_rms
from megan_jax.models.decoder import Precision
from megan_jax.models.model import Model
from tests.models import plain
from tests.models.tiny import quick_jit, random_params, tiny_model

VARIANTS = {
    "shared": HypernetConfig(width=8),
    "shared_heads_bias_deep": HypernetConfig(width=8, heads=4, bias=True, beta_layers=3),
    "shared_full_heads": HypernetConfig(width=0, heads=2, beta_layers=2, condition_norm="none"),
    "layerwise": HypernetConfig(kind="layerwise", width=8, heads=2, bias=True, beta_layers=2),
    "layerwise_full": HypernetConfig(kind="layerwise", width=0, heads=4, condition_norm="none"),
    "shared_from_layer_1": HypernetConfig(width=8, start_layer=1, divided_activation=True),
}


@functools.cache
def program(model: Model):
    return quick_jit(functools.partial(model.apply, return_beta=True))


@functools.cache
def case(h: HypernetConfig):
    model = tiny_model(h)
    params = random_params(model, seed=1)
    rng = np.random.default_rng(2)
    tokens, condition = (rng.integers(0, 37, (2, n)).astype(np.int32) for n in (6, 5))
    return model, params, tokens, condition


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_slow_plain_version(variant: str):
    h = VARIANTS[variant]
    model, params, tokens, condition = case(h)
    out = program(model)(params, tokens, None, condition, np.ones_like(condition))
    for row in range(2):
        gate = plain.meta_gate(params, h, condition[row])
        logits, beta = plain.llama(params, model.config, tokens[row], gate=gate)
        np.testing.assert_allclose(out.beta[:, row], beta, atol=3e-6)
        np.testing.assert_allclose(out.logits[row], logits, atol=3e-5)
    beta = np.abs(np.asarray(out.beta))
    assert 0.3 < beta[h.start_layer :].max() < 0.5
    assert not beta[: h.start_layer].any()
    assert all(layer.max() > 0.1 for layer in beta[h.start_layer :])


def test_the_order_of_condition_tokens_changes_nothing():
    model, params, tokens, condition = case(VARIANTS["shared"])
    ones = np.ones_like(condition)
    one = program(model)(params, tokens, None, condition, ones)
    order = np.random.default_rng(3).permutation(condition.shape[1])
    two = program(model)(params, tokens, None, condition[:, order], ones)
    np.testing.assert_allclose(one.beta, two.beta, atol=1e-6)
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)


@pytest.mark.parametrize("variant", ["shared", "layerwise"])
def test_padding_of_a_condition_is_not_read(variant: str):
    model, params, tokens, condition = case(VARIANTS[variant])
    mask = np.asarray([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], np.int32)
    apply = program(model)
    one = apply(params, tokens, None, condition, mask)
    other = np.where(mask, condition, 36 - condition)
    two = apply(params, tokens, None, other, mask)
    np.testing.assert_array_equal(one.beta, two.beta)
    np.testing.assert_array_equal(one.logits, two.logits)
    # The first row is the condition of three tokens, whatever it is padded to.
    gate = plain.meta_gate(params, model.hypernet_config, condition[0, :3])
    _, beta = plain.llama(params, model.config, tokens[0], gate=gate)
    np.testing.assert_allclose(one.beta[:, 0], beta, atol=3e-6)
    # A row of padding has no condition: β is exactly zero.
    assert not np.asarray(one.beta[:, 1]).any()
    unmasked = apply(params, tokens, None, condition, np.ones_like(mask))
    assert np.abs(np.asarray(unmasked.beta[:, 0] - one.beta[:, 0])).max() > 0.01


def test_a_row_without_a_condition_has_finite_zero_gradients():
    model, params, tokens, condition = case(VARIANTS["shared_heads_bias_deep"])

    @quick_jit
    def gradient(hyper, mask):
        def loss(hyper):
            logits = model.apply({**params, "hyper": hyper}, tokens, None, condition, mask).logits
            return jnp.mean(jnp.square(logits))

        return jax.value_and_grad(loss)(hyper)

    empty = np.zeros_like(condition)
    value, grads = gradient(params["hyper"], empty)
    assert np.isfinite(float(value))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))
    half = empty.copy()
    half[0] = 1
    value, grads = gradient(params["hyper"], half)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(grads))
    largest = {
        "/".join(k.key for k in path): float(jnp.abs(leaf).max())
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads)
    }
    # Key biases shift all scores of a query alike: mathematically nothing.
    keyless = {"attention/key/bias", "key_proj/bias"}
    assert all(size > 1e-6 for path, size in largest.items() if path not in keyless), largest


def test_equal_layers_of_layerwise_equal_shared_without_layer_embeddings():
    shared, params, tokens, condition = case(VARIANTS["shared"])
    layerwise = tiny_model(HypernetConfig(kind="layerwise", width=8))
    hyper = {k: v for k, v in params["hyper"].items() if k != "layer_embeddings"}
    stacked = jax.tree.map(lambda x: np.stack([x] * 3), hyper)
    zero = {"layer_embeddings": {"embedding": np.zeros((3, 8), np.float32)}}
    ones = np.ones_like(condition)
    one = program(shared)({**params, "hyper": {**hyper, **zero}}, tokens, None, condition, ones)
    two = program(layerwise)({**params, "hyper": stacked}, tokens, None, condition, ones)
    np.testing.assert_allclose(one.beta, two.beta, atol=1e-6)
    np.testing.assert_allclose(one.logits, two.logits, atol=1e-5)


def test_pooled_reads_the_condition_only():
    h = HypernetConfig(kind="pooled", width=8, heads=2)
    model, params, tokens, condition = case(h)
    mask = np.ones_like(condition)
    mask[1, 3:] = 0
    beta = np.asarray(program(model)(params, tokens, None, condition, mask).beta)
    # Constant over tokens, whatever they are; another in each layer and row.
    other = np.asarray(program(model)(params, (tokens + 5) % 37, None, condition, mask).beta)
    np.testing.assert_allclose(beta, np.broadcast_to(beta[:, :, :1], beta.shape), atol=1e-7)
    np.testing.assert_allclose(beta, other, atol=1e-7)
    assert np.abs(beta[:, 0] - beta[:, 1]).max() > 0.05
    assert np.abs(beta[0] - beta[1]).max() > 0.05
    # Slow: the mean of the values of the tokens that are there.
    table, p = params["target"]["embed_tokens"]["embedding"], params["hyper"]

    def linear(place, x):
        return x @ place["kernel"] + place.get("bias", 0)

    for row, length in ((0, 5), (1, 3)):
        c = table[condition[row, :length]]
        c = c / np.sqrt(np.mean(c**2, axis=-1, keepdims=True))
        value = linear(p["attention"]["value"], linear(p["value_proj"], c)).mean(axis=0)
        for layer in range(3):
            z = linear(p["attention"]["out"], value) + p["layer_embeddings"]["embedding"][layer]
            slow = 0.5 * np.tanh(linear(p["beta_layers_0"], z))
            np.testing.assert_allclose(beta[layer, row, 0], slow, atol=2e-6)


def test_static_is_a_learned_vector_that_ignores_the_text():
    model, params, tokens, condition = case(HypernetConfig(kind="static", start_layer=1))
    assert set(params["hyper"]) == {"logits"}
    beta = np.asarray(program(model)(params, tokens, None, condition, condition * 0 + 1).beta)
    wanted = 0.5 * np.tanh(params["hyper"]["logits"])
    wanted[0] = 0
    np.testing.assert_allclose(beta, np.broadcast_to(wanted[:, None, None], beta.shape), atol=1e-7)
    other = program(model)(params, tokens, None, 36 - condition, condition * 0 + 1).beta
    np.testing.assert_array_equal(beta, other)


def test_none_has_no_parameters_and_no_beta():
    model, params, tokens, condition = case(HypernetConfig(kind="none"))
    assert set(params) == {"target"}
    assert model.hypernet is None
    out = program(model)(params, tokens, None, condition, np.ones_like(condition))
    assert not np.asarray(out.beta).any()


def test_beta_stays_within_a_half():
    """Even for weights that saturate every tanh."""
    model, params, tokens, condition = case(VARIANTS["shared"])
    huge = jax.tree.map(lambda x: 100 * x, params["hyper"])
    ones = np.ones_like(condition)
    beta = program(model)({**params, "hyper": huge}, tokens, None, condition, ones).beta
    assert np.abs(np.asarray(beta)).max() == 0.5


def test_bfloat16_beta_is_near_float32():
    model, params, tokens, condition = case(VARIANTS["shared"])
    half = Model(model.config, model.hypernet_config, Precision(compute=jnp.bfloat16))
    ones = np.ones_like(condition)
    exact = program(model)(params, tokens, None, condition, ones).beta
    beta = program(half)(params, tokens, None, condition, ones).beta
    assert beta.dtype == jnp.float32
    assert np.abs(np.asarray(beta - exact)).mean() < 0.01
    assert (np.asarray(beta) != np.asarray(exact)).any()


def test_condition_embeddings():
    rows = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32) * 0.02
    unit = np.asarray(unit_rms(rows))
    np.testing.assert_allclose(np.sqrt(np.mean(unit**2, axis=-1)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(unit / rows, (unit / rows)[..., :1] * np.ones(8), rtol=1e-5)
    np.testing.assert_array_equal(embed_condition(jnp.asarray(rows), "none"), rows)
    assert np.isfinite(np.asarray(unit_rms(np.zeros((1, 1, 8), np.float32)))).all()
    for kind in ("rms", "none"):
        grad = jax.grad(lambda x, kind=kind: jnp.sum(embed_condition(x, kind)))(jnp.asarray(rows))
        assert not np.asarray(grad).any()


def test_a_start_layer_beyond_the_model_is_refused():
    with pytest.raises(UserError, match=r"start_layer \(3\) leaves none of the model's 3 layers"):
        tiny_model(HypernetConfig(start_layer=3)).abstract()
    with pytest.raises(UserError, match=r"hypernet.heads \(3\) does not divide .* \(16\)"):
        tiny_model(HypernetConfig(width=0, heads=3)).abstract()
