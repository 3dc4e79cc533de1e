"""The target network against a slow plain numpy Llama, and its invariances."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.models.config import RopeScaling
from megan_jax.models.decoder import Precision
from megan_jax.models.model import Model
from tests.models import plain
from tests.models.tiny import TINY, assert_trees_close, quick_jit, random_params, tiny_model

VARIANTS = {
    "plain": {},
    "multi_head": {"num_key_value_heads": 4, "head_dim": 4},
    "multi_query_biases": {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
    "tied_llama3": {
        "tie_word_embeddings": True,
        "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16),
        "rope_theta": 100.0,
    },
    "linear_wide_heads": {"head_dim": 10, "rope_scaling": RopeScaling("linear", 2.5)},
    "dynamic": {"rope_scaling": RopeScaling("dynamic", 2.0), "attention_bias": True},
}


def tokens_of(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, TINY.vocab_size, (rows, length)).astype(np.int32)


@functools.cache
def applied(model: Model):
    return quick_jit(functools.partial(model.apply, return_beta=True))


@pytest.fixture(scope="module")
def base():
    model = tiny_model()
    return model, random_params(model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_a_plain_llama(variant: str):
    model = tiny_model(**VARIANTS[variant])
    params = random_params(model)
    tokens = tokens_of(2, 9)
    logits = applied(model)(params, tokens).logits
    for row in range(2):
        slow, _ = plain.llama(params, model.config, tokens[row])
        assert np.abs(slow).max() > 1
        np.testing.assert_allclose(logits[row], slow, atol=2e-5)


def test_attention_mask_removes_keys_only(base):
    model, params = base
    tokens = tokens_of(2, 9)
    keep = np.ones((2, 9), np.int32)
    keep[0, 6:] = 0
    keep[1, [2, 5]] = 0
    masked = applied(model)(params, tokens, keep).logits
    for row in range(2):
        visible = np.tril(np.ones((9, 9), bool)) & keep[row].astype(bool)[None]
        slow, _ = plain.llama(params, model.config, tokens[row], visible=visible)
        np.testing.assert_allclose(masked[row], slow, atol=2e-5)
    # Right padding is invisible to what stands before it.
    whole = applied(model)(params, tokens).logits
    np.testing.assert_allclose(masked[0, :6], whole[0, :6], atol=2e-6)


def test_later_tokens_change_nothing(base):
    model, params = base
    tokens = tokens_of(2, 9)
    other = tokens.copy()
    other[:, 5:] = (other[:, 5:] + 1) % TINY.vocab_size
    one, two = (applied(model)(params, t).logits for t in (tokens, other))
    np.testing.assert_array_equal(one[:, :5], two[:, :5])
    assert np.abs(one[:, 5:] - two[:, 5:]).max() > 0.1


def test_memory_choices_change_nothing(base):
    model, params = base
    choices = Precision(scan=False), Precision(remat="full")
    models = [model, *(Model(model.config, None, choice) for choice in choices)]
    tokens = jnp.asarray(tokens_of(2, 9))

    def loss(model: Model, params: dict) -> jax.Array:
        return jnp.mean(jnp.square(model.apply(params, tokens).logits))

    wanted, *others = (quick_jit(jax.grad(functools.partial(loss, m)))(params) for m in models)
    for grads in others:
        assert_trees_close(grads, wanted, 1e-5)


def test_bfloat16_is_near_float32(base):
    model, params = base
    tokens = tokens_of(2, 9)
    half = Model(model.config, None, Precision(compute=jnp.bfloat16))
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float32), narrow)
    out = applied(half)(narrow, tokens).logits
    assert out.dtype == jnp.float32
    wanted = np.asarray(applied(model)(exact, tokens).logits)
    assert np.abs(np.asarray(out) - wanted).mean() < 0.02 * np.abs(wanted).mean()


def test_the_base_model_returns_zero_beta(base):
    model, params = base
    beta = applied(model)(params, tokens_of(2, 9)).beta
    assert beta.shape == (3, 2, 9, 20)
    assert not np.asarray(beta).any()
