"""Rotary frequencies: against a slow plain version and recorded values of transformers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.errors import UserError
from megan_jax.models import rotary
from megan_jax.models.config import LlamaConfig, RopeScaling
from tests.models import plain
from tests.models.tiny import tiny_model

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# inv_freq (first four) and cos at position 1999 (first four) of transformers 5.23
# LlamaRotaryEmbedding with head_dim 16; its two config spellings gave the same numbers.
RECORDED = {
    "default": (
        {"rope_type": "default"},
        100000.0,
        [1.0, 0.237137362, 0.0562341288, 0.0133352149],
        [0.584062, -0.9417859, 0.7742229, 0.04642591],
    ),
    "linear": (
        {"rope_type": "linear", "factor": 4.0},
        10000.0,
        [0.25, 0.079056941, 0.0250000004, 0.00790569466],
        [-0.9721012, 0.5774554, 0.9581065, -0.9954414],
    ),
    "dynamic": (
        {"rope_type": "dynamic", "factor": 2.0},
        10000.0,
        [1.0, 0.316227764, 0.100000001, 0.0316227786],
        [0.584062, -0.7781013, 0.3975779, 0.9278901],
    ),
    "llama3": (
        {"rope_type": "llama3", **LLAMA3},
        500000.0,
        [1.0, 0.193922758, 0.0376060307, 0.00729266508],
        [0.584062, -0.3288749, 0.9750678, -0.4267267],
    ),
}
# The blend and the stretched end of llama3: inv_freq 4 to 7 of the same recording.
LLAMA3_SLOW = [0.000524846022, 3.42810235e-05, 6.64786967e-06, 1.28917316e-06]


def from_spelling(spelling: str, scaling: dict, theta: float) -> LlamaConfig:
    fields = {
        "model_type": "llama",
        "vocab_size": 11,
        "hidden_size": 64,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "head_dim": 16,
    }
    if spelling == "v5":
        fields["rope_parameters"] = {**scaling, "rope_theta": theta}
    else:
        fields["rope_theta"] = theta
        fields["rope_scaling"] = scaling if scaling["rope_type"] != "default" else None
        if scaling["rope_type"] in ("linear", "dynamic"):
            fields["rope_scaling"] = {"type": scaling["rope_type"], "factor": scaling["factor"]}
    return LlamaConfig.from_hf(fields)


@pytest.mark.parametrize("spelling", ["v4", "v5"])
@pytest.mark.parametrize("kind", RECORDED)
def test_recorded_values(kind: str, spelling: str):
    scaling, theta, speeds, cosines = RECORDED[kind]
    config = from_spelling(spelling, scaling, theta)
    np.testing.assert_allclose(rotary.inverse_frequencies(config)[:4], speeds, rtol=3e-7)
    if kind == "llama3":
        np.testing.assert_allclose(rotary.inverse_frequencies(config)[4:], LLAMA3_SLOW, rtol=3e-7)
    cos, sin = rotary.tables(config, jnp.asarray([[1999]]))
    # An angle of 2000 radians is known to 1e-4 in float32.
    np.testing.assert_allclose(cos[0, 0, :4], cosines, atol=2e-4)
    np.testing.assert_allclose(cos**2 + sin**2, 1.0, atol=1e-6)


@given(
    kind=st.sampled_from(["default", "linear", "llama3", "dynamic"]),
    head_dim=st.sampled_from([2, 4, 6, 64, 128]),
    theta=st.floats(100.0, 1e6),
    factor=st.floats(1.0, 32.0),
    low=st.floats(0.5, 2.0),
    width=st.floats(0.1, 8.0),
    original=st.integers(8, 8192),
)
def test_frequencies_equal_the_formula(kind, head_dim, theta, factor, low, width, original):
    scaling = RopeScaling(kind, factor, low, low + width, original)
    config = tiny_model(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling).config
    slow = plain.frequencies(head_dim, theta, kind, factor, low, low + width, original)
    np.testing.assert_allclose(rotary.inverse_frequencies(config), slow, rtol=1e-5)


def test_rotation_equals_the_slow_one():
    config = tiny_model(head_dim=6, rope_theta=50.0).config
    positions = np.asarray([[0, 3, 11, 2]])
    x = np.random.default_rng(0).standard_normal((1, 4, 2, 6)).astype(np.float32)
    turned = rotary.rotate(jnp.asarray(x), *rotary.tables(config, jnp.asarray(positions)))
    speeds = plain.frequencies(6, 50.0)
    for t, position in enumerate(positions[0]):
        for head in range(2):
            slow = plain.rotate(x[0, t, head].astype(np.float64), int(position), speeds)
            np.testing.assert_allclose(turned[0, t, head], slow, atol=2e-6)


def test_scores_depend_on_distance_only():
    config = tiny_model(head_dim=6).config
    rng = np.random.default_rng(1)
    query, key = rng.standard_normal((2, 1, 1, 1, 6)).astype(np.float32)

    def score(at: int, seen: int) -> float:
        turned = rotary.rotate(query, *rotary.tables(config, jnp.asarray([[at]])))
        return float(
            jnp.sum(turned * rotary.rotate(key, *rotary.tables(config, jnp.asarray([[seen]]))))
        )

    assert score(9, 4) == pytest.approx(score(29, 24), abs=1e-5)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_dynamic_scaling_ends_at_the_trained_length():
    model = tiny_model(rope_scaling=RopeScaling("dynamic", 2.0))
    message = (
        r"65 tokens exceed max_position_embeddings \(64\).*'dynamic' rope scaling.*"
        r"Shorten the input"
    )
    rotary.check_length(model.config, 64)
    with pytest.raises(UserError, match=message):
        rotary.check_length(model.config, 65)
    with pytest.raises(UserError, match=message):
        model.empty_cache(1, 65)
    with pytest.raises(UserError, match=message):
        model.apply({}, jnp.zeros((1, 65), jnp.int32))
    # The other kinds extrapolate, as in transformers.
    for kind in ("default", "linear", "llama3"):
        rotary.check_length(tiny_model(rope_scaling=RopeScaling(kind, 2.0)).config, 65)
