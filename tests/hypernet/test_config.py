"""HypernetConfig: its checks, and the reference's keys in both directions."""

from __future__ import annotations

import dataclasses

import pytest

from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig

REFERENCE = {
    "meta_swishglu_shared_hyper": 1,
    "meta_swishglu_attn_key": "x",
    "meta_swishglu_attn_head_num": 4,
    "meta_swishglu_mlp_bias": 0,
    "meta_swishglu_beta_hidden_dim": 512,
    "meta_swishglu_beta_num_layer": 1,
    "meta_swishglu_l2_lambda": 0.0,
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "sharde"}, r"hypernet.kind is 'sharde'; it must be one of .* Did you mean"),
        ({"init": "xavier"}, r"hypernet.init is 'xavier'.*fan_in, reference"),
        ({"condition_norm": "l2"}, r"hypernet.condition_norm is 'l2'"),
        ({"penalty": "L1"}, r"hypernet.penalty is 'L1'.*none, l1, l2.* Did you mean 'l1'\?"),
        ({"penalty_reduction": "max"}, r"hypernet.penalty_reduction is 'max'"),
        ({"width": -1}, r"hypernet.width must be an integer >= 0, got -1"),
        ({"width": 8.0}, r"hypernet.width must be an integer >= 0, got 8.0"),
        ({"heads": 0}, r"hypernet.heads must be an integer >= 1, got 0"),
        ({"beta_layers": 0}, r"hypernet.beta_layers must be an integer >= 1"),
        ({"start_layer": -1}, r"hypernet.start_layer must be an integer >= 0"),
        ({"condition_length": 0}, r"hypernet.condition_length must be an integer >= 1"),
        ({"width": 10, "heads": 4}, r"hypernet.width \(10\) is not a multiple .*\(4\)"),
    ],
)
def test_checks(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        HypernetConfig(**fields)


def test_defaults_are_the_sane_ones():
    h = HypernetConfig()
    assert h.kind == "shared"
    assert h.condition_length == 64
    assert not h.divided_activation
    assert not h.freeze_layer_embeddings
    assert h.penalty == "none"
    assert not h.penalty_includes_padding


def test_reading_the_reference_switches_its_conventions_on():
    h = HypernetConfig.from_reference(REFERENCE)
    assert (h.kind, h.width, h.beta_layers, h.bias) == ("shared", 512, 1, False)
    # Q5: the head count of a reduced width is ignored there.
    assert h.heads == 1
    assert h.init == "reference"
    assert h.condition_norm == "none"
    assert h.divided_activation
    assert h.freeze_layer_embeddings
    assert h.penalty == "none"
    full = {**REFERENCE, "meta_swishglu_beta_hidden_dim": 0, "meta_swishglu_shared_hyper": 0}
    h = HypernetConfig.from_reference(full)
    assert (h.kind, h.width, h.heads) == ("layerwise", 0, 4)
    penalised = HypernetConfig.from_reference({**REFERENCE, "meta_swishglu_l2_lambda": 1e-4})
    # Q12: called L2, is a summed L1 over padding too.
    assert penalised.penalty == "l1"
    assert penalised.penalty_weight == 1e-4
    assert penalised.penalty_reduction == "sum"
    assert penalised.penalty_includes_padding
    assert HypernetConfig.from_reference(REFERENCE, condition_length=16).condition_length == 16


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"meta_swishglu_shared_hyper": 0},
        {"meta_swishglu_beta_hidden_dim": 0, "meta_swishglu_beta_num_layer": 3},
        {"meta_swishglu_mlp_bias": 1, "meta_swishglu_l2_lambda": 0.5},
    ],
)
def test_reference_round_trip(change: dict):
    h = HypernetConfig.from_reference({**REFERENCE, **change})
    written = h.to_reference()
    assert "megan_jax_hypernet" not in written
    assert HypernetConfig.from_reference(written) == h


@pytest.mark.parametrize(
    "fields",
    [
        {"start_layer": 2, "condition_norm": "none"},
        {"condition_norm": "rms"},
        {"heads": 2, "condition_norm": "none"},
        {"beta_layers": 2, "condition_norm": "none"},
    ],
)
def test_what_the_reference_lacks_is_written_beside_its_keys(fields: dict):
    h = HypernetConfig(**fields)
    assert h.to_reference()["megan_jax_hypernet"] == dataclasses.asdict(h)


def test_refusals():
    with pytest.raises(UserError, match="no meta_swishglu_\\* keys: not a MeGan checkpoint"):
        HypernetConfig.from_reference({"model_type": "llama"})
    for key in ("style", None):
        with pytest.raises(UserError, match=r"only 'x' .* is a causal model"):
            HypernetConfig.from_reference({**REFERENCE, "meta_swishglu_attn_key": key})
    with pytest.raises(UserError, match="beta_hidden_dim must be a number, got 'wide'"):
        HypernetConfig.from_reference({**REFERENCE, "meta_swishglu_beta_hidden_dim": "wide"})
    for kind in ("pooled", "static", "none"):
        with pytest.raises(UserError, match=f"hypernet.kind '{kind}' has no form"):
            HypernetConfig(kind=kind).to_reference()


def test_null_fields_of_the_reference_are_its_defaults():
    fields = dict.fromkeys(REFERENCE)
    fields |= {"meta_swishglu_shared_hyper": 1, "meta_swishglu_attn_key": "x"}
    h = HypernetConfig.from_reference(fields)
    assert (h.width, h.heads, h.beta_layers, h.penalty) == (0, 1, 1, "none")
