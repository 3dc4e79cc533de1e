"""LlamaConfig: both spellings of transformers, presets, counts, and refusals."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megan_jax.errors import UserError
from megan_jax.models.config import PRESETS, LlamaConfig, RopeScaling, tiny_random
from megan_jax.models.model import Model
from tests.models.tiny import TINY

# Written by transformers 4.46 for a Llama with llama3 scaling (defaults left out).
V4 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
V5 = {
    **{k: v for k, v in V4.items() if k not in ("rope_scaling", "rope_theta", "torch_dtype")},
    "dtype": "bfloat16",
    "pad_token_id": None,
    "rope_parameters": {**V4["rope_scaling"], "rope_theta": 500000.0},
    "transformers_version": "5.23.0",
}
SMALL = {
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.mark.parametrize("fields", [V4, V5], ids=["v4", "v5"])
def test_both_spellings_are_the_1b_preset(fields: dict):
    assert LlamaConfig.from_hf(fields) == PRESETS["llama-3.2-1b"]


def test_defaults_are_those_of_transformers():
    config = LlamaConfig.from_hf(SMALL)
    assert config.num_key_value_heads == 2
    assert config.head_dim == 4
    assert config.rms_norm_eps == 1e-6
    assert config.rope_theta == 10000.0
    assert config.max_position_embeddings == 2048
    assert config.rope_scaling == RopeScaling()
    assert not (config.tie_word_embeddings or config.attention_bias or config.mlp_bias)
    assert config.eos_token_id == ()
    nulls = dict.fromkeys(("num_key_value_heads", "head_dim", "rope_scaling", "eos_token_id"))
    assert LlamaConfig.from_hf({**SMALL, **nulls}) == config


@given(
    groups=st.integers(1, 4),
    per_group=st.integers(1, 4),
    half=st.integers(1, 8),
    biases=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    rope=st.sampled_from(
        [
            RopeScaling(),
            RopeScaling("linear", 2.5),
            RopeScaling("dynamic", 3.0),
            RopeScaling("llama3", 8.0, 1.0, 4.0, 512),
        ]
    ),
    eos=st.sampled_from([(), (2,), (2, 7)]),
    theta=st.floats(10.0, 1e6),
)
def test_to_hf_round_trip(groups, per_group, half, biases, rope, eos, theta):
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=groups * per_group,
        num_key_value_heads=groups,
        head_dim=2 * half,
        rope_theta=theta,
        rope_scaling=rope,
        attention_bias=biases[0],
        mlp_bias=biases[1],
        tie_word_embeddings=biases[2],
        eos_token_id=eos,
        bos_token_id=1,
    )
    assert LlamaConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("smollm2-135m", 134_515_008),
        ("llama-2-7b", 6_738_415_616),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.2-1b", 1_235_814_400),
    ],
)
def test_parameter_counts_of_the_presets(name: str, count: int):
    config = PRESETS[name]
    assert config.parameter_count == count
    leaves = jax.tree.leaves(Model(config).abstract())
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_every_preset_is_counted():
    assert set(PRESETS) == {
        "smollm2-135m",
        "llama-2-7b",
        "llama-3.1-8b",
        "llama-3.1-70b",
        "llama-3.2-1b",
    }


@settings(max_examples=6)
@given(
    biases=st.tuples(st.booleans(), st.booleans(), st.booleans()), head_dim=st.sampled_from([2, 6])
)
def test_parameter_count_equals_the_tree(biases, head_dim):
    config = dataclasses.replace(
        TINY,
        attention_bias=biases[0],
        mlp_bias=biases[1],
        tie_word_embeddings=biases[2],
        head_dim=head_dim,
    )
    leaves = jax.tree.leaves(Model(config).abstract())
    assert sum(math.prod(leaf.shape) for leaf in leaves) == config.parameter_count


def test_tiny_random_needs_nothing():
    config = tiny_random(300)
    assert config.vocab_size == 300
    assert config.parameter_count < 200_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2"}, r"model_type is 'qwen2'.*Llama family"),
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'.*SwiGLU"),
        ({"hidden_size": ...}, r"config.json: missing hidden_size\."),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(2\) is not a multiple.*\(3\)"),
        ({"num_key_value_heads": 0}, r"num_key_value_heads must be a positive integer, got 0"),
        ({"num_attention_heads": 0}, r"num_attention_heads must be a positive integer, got 0"),
        ({"num_attention_heads": "2"}, r"num_attention_heads must be a positive integer, got '2'"),
        ({"vocab_size": True}, r"vocab_size must be a positive integer, got True"),
        ({"hidden_size": 8.0}, r"hidden_size must be a positive integer, got 8.0"),
        ({"head_dim": 3}, r"head_dim must be even, got 3"),
        ({"rms_norm_eps": "x"}, r"rms_norm_eps must be a positive number, got 'x'"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps must be a positive number, got nan"),
        ({"rope_theta": -1}, r"rope_theta must be a positive number, got -1"),
        ({"rope_theta": [1]}, r"rope_theta must be a positive number, got \[1\]"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings must be a positive integer"),
        ({"eos_token_id": "</s>"}, r"special token id '</s>' is not an integer"),
        ({"rope_scaling": "linear"}, r"rope_scaling must be an object, got 'linear'"),
        (
            {"rope_scaling": {"type": "linaer", "factor": 2}},
            r"rope type 'linaer' is not supported.*Did you mean 'linear'\?",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, r"rope type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, r"rope type 'linear' needs factor\."),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1}},
            r"'llama3' needs high_freq_factor, original_max_position_embeddings\.",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": "2"}},
            r"rope factor must be a positive number, got '2'",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 0}},
            r"rope factor must be a positive number, got 0",
        ),
        (
            {"rope_scaling": {**V4["rope_scaling"], "low_freq_factor": 4.0}},
            r"low_freq_factor \(4.0\) must be below high_freq_factor \(4.0\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str):
    fields = {**SMALL, **change}
    with pytest.raises(UserError, match=message):
        LlamaConfig.from_hf({k: v for k, v in fields.items() if v is not ...})
