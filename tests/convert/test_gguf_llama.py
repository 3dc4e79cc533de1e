"""A Llama written as GGUF by hand is the same model as its Hugging Face twin."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megan_jax.convert import load, open_model
from megan_jax.errors import UserError
from megan_jax.models.config import RopeScaling
from tests.convert import builders
from tests.convert.models import CONFIG, random_tensors

GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 128,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500000.0,
    "llama.rope.dimension_count": 8,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 3,
}


def gguf_name(name: str) -> str:
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, ending = rest.rpartition(".")
    return f"blk.{layer}.{GGUF_NAMES[part]}.{ending}"


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Row by row: llama.cpp puts rotary dimension i of a head beside its partner i + half."""
    out, half = np.empty_like(values), len(values) // heads // 2
    for head in range(heads):
        for i in range(half):
            for side in range(2):
                out[head * 2 * half + 2 * i + side] = values[head * 2 * half + side * half + i]
    return out


def write(tmp_path, kind="F32", changes=None, extra=None, drop=(), bias=False):
    """Writes the twin; returns the path and what Hugging Face's names should hold."""
    config = CONFIG if not bias else type(CONFIG)(**{**vars(CONFIG), "attention_bias": True})
    expected, stored = {}, {}
    for name, values in random_tensors(config).items():
        raw, decoded = builders.encode(values, "F32" if values.ndim == 1 else kind)
        if "q_proj" in name or "k_proj" in name:
            heads = 4 if "q_proj" in name else 2
            turned = interleaved(values, heads)
            raw, decoded = builders.encode(turned, "F32" if values.ndim == 1 else kind)
            order = interleaved(np.arange(len(values)), heads)
            decoded = decoded[np.argsort(order)]
        number = builders.GGUF_TYPES["F32" if values.ndim == 1 else kind]
        expected[name], stored[gguf_name(name)] = decoded, (values.shape, number, raw)
    for name, values in (extra or {}).items():
        stored[name] = (values.shape, 0, values.astype(np.float32).tobytes())
    for name in drop:
        del stored[name]
    fields = {k: v for k, v in {**METADATA, **(changes or {})}.items() if v is not None}
    path = tmp_path / "tiny.gguf"
    path.write_bytes(builders.gguf_bytes(fields, stored))
    return path, expected


@pytest.mark.parametrize("kind", builders.GGUF_TYPES)
def test_tensors_and_config(tmp_path, kind):
    path, expected = write(tmp_path, kind)
    source = open_model(path)
    assert source.config == CONFIG
    assert source.hypernet is None
    assert set(source.tensors) == set(expected)
    for name, values in expected.items():
        got = source.tensors[name].read()
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values, err_msg=name)


def test_biases_of_queries_and_keys_are_put_back_in_order(tmp_path):
    path, expected = write(tmp_path, bias=True)
    source = open_model(path)
    assert source.config.attention_bias
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{part}.bias"
        np.testing.assert_array_equal(source.tensors[name].read(), expected[name])


def test_the_tree_is_filled(tmp_path):
    path, expected = write(tmp_path)
    params = load(path, dtype=np.float32).params["target"]
    kernel = expected["model.layers.1.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(
        params["layers"]["self_attn"]["q_proj"]["kernel"][1].reshape(32, 32), kernel.T
    )


def test_a_tied_head(tmp_path):
    path, _ = write(tmp_path, drop=["output.weight"])
    assert open_model(path).config.tie_word_embeddings
    assert "lm_head" not in load(path).params["target"]


def divisors(theta, head_dim, factor, low, high, context):
    """llama.cpp's converter, in its own words."""
    out = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < context / high:
            out.append(1.0)
        elif wavelength > context / low:
            out.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered(tmp_path, factor):
    stored = divisors(500000.0, 8, factor, 1.0, 4.0, 8192)
    path, _ = write(tmp_path, extra={"rope_freqs.weight": stored})
    assert open_model(path).config.rope_scaling == RopeScaling("llama3", factor, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    "stored",
    [
        divisors(500000.0, 8, 8.0, 1.0, 4.0, 2048) * np.float32(1.01),
        np.ones(7, np.float32),
        np.array([1, 2, np.nan, 8], np.float32),
        np.zeros(4, np.float32),
    ],
)
def test_other_divisors_are_refused(tmp_path, stored):
    path, _ = write(tmp_path, extra={"rope_freqs.weight": stored})
    with pytest.raises(UserError, match="not Llama 3's rope scaling"):
        open_model(path)


def test_linear_scaling(tmp_path):
    path, _ = write(
        tmp_path, changes={"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    )
    assert open_model(path).config.rope_scaling == RopeScaling("linear", 2.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma"}, "the architecture is 'gemma'"),
        ({"general.architecture": None}, "the metadata has no general.architecture"),
        ({"llama.block_count": None}, "the metadata has no llama.block_count"),
        ({"llama.block_count": "2"}, "llama.block_count should be one int, got '2'"),
        ({"llama.feed_forward_length": [64, 32]}, "should be one int, got a list of 2 values"),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.attention.head_count_kv": 3}, "not a multiple"),
        ({"llama.expert_count": 8}, "a mixture of experts"),
        ({"llama.rope.dimension_count": 4}, "dimension_count is 4 and the head size 8"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ({"llama.rope.freq_base": float("nan")}, "freq_base should be one float"),
        ({"llama.embedding_length": 36}, "head size 9"),
        ({"llama.block_count": 3}, r"blk|model\.layers\.2\.input_layernorm\.weight: missing"),
        ({"llama.block_count": 4000000000}, "says 4000000000 layers"),
        ({"llama.feed_forward_length": 96}, r"gate_proj\.weight: expected \[96, 32\], found \[64"),
    ],
)
def test_config_fields_that_do_not_fit(tmp_path, changes, message):
    path, _ = write(tmp_path, changes=changes)
    with pytest.raises(UserError, match=message):
        open_model(path)


def test_a_value_repeated_for_every_layer_is_one_value(tmp_path):
    path, _ = write(tmp_path, changes={"llama.feed_forward_length": [64, 64]})
    assert open_model(path).config == CONFIG


def test_unknown_and_missing_tensors_are_named(tmp_path):
    extra = {"blk.0.ffn_gate_exps.weight": np.zeros((2, 2))}
    path, _ = write(tmp_path, extra=extra, drop=["blk.1.attn_v.weight"])
    with pytest.raises(UserError) as caught:
        open_model(path)
    assert "blk.0.ffn_gate_exps.weight: unexpected, found [2, 2]" in str(caught.value)
    assert "model.layers.1.self_attn.v_proj.weight: missing, expected [16, 32]" in str(caught.value)


def test_no_embedding_table(tmp_path):
    path, _ = write(tmp_path, drop=["token_embd.weight"])
    with pytest.raises(UserError, match=r"no token_embd\.weight"):
        open_model(path)
