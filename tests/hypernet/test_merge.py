"""Static gates folded into the weights compute what the gates did."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.hypernet.merge import merge_modulation
from megan_jax.hypernet.modulation import Modulation
from megan_jax.models.model import Model
from tests.models.tiny import quick_jit, random_params, tiny_model


@functools.cache
def static_case():
    model = tiny_model(HypernetConfig(kind="static", start_layer=1), mlp_bias=True)
    return model, random_params(model)


def test_merged_static_gates_equal_the_modulated_model():
    model, params = static_case()
    rng = np.random.default_rng(0)
    tokens, condition = rng.integers(0, 37, (2, 2, 7)).astype(np.int32)
    merged = merge_modulation(params["target"], model.modulate(params, condition, condition))
    base = quick_jit(Model(model.config).apply)
    gated = quick_jit(model.apply)(params, tokens, condition_ids=condition).logits
    np.testing.assert_allclose(base({"target": merged}, tokens).logits, gated, atol=2e-5)
    assert np.abs(np.asarray(base(params, tokens).logits - gated)).max() > 0.1


def test_the_null_modulation_merges_into_nothing():
    _, params = static_case()
    assert merge_modulation(params["target"], Modulation()) is params["target"]


def test_generated_gates_are_refused():
    model = tiny_model(HypernetConfig(width=8))
    params, ids = random_params(model), np.ones((1, 3), np.int32)
    with pytest.raises(UserError, match="β differs from token to token"):
        merge_modulation(params["target"], model.modulate(params, ids, ids))
