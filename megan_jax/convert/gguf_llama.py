"""A Llama in a GGUF file, seen as a Hugging Face model: its config and its tensors' names.

llama.cpp stores the rows of the query and key projections in the order of interleaved rotary pairs;
they are put back here. Llama-3 rope scaling is stored as a tensor of frequency divisors, from which
its parameters are recovered and checked.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import numpy as np

from megan_jax.convert.gguf import Gguf
from megan_jax.convert.tensors import LazyTensor
from megan_jax.errors import UserError
from megan_jax.models.config import LlamaConfig, RopeScaling

_ROPE_DIVISORS = "rope_freqs.weight"
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
# Every published Llama 3.1, 3.2 and 3.3 model uses these.
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_CONTEXT = 1.0, 4.0, 8192


def llama_config(gguf: Gguf) -> LlamaConfig:
    """The target network's config, from `llama.*` and `tokenizer.ggml.*` metadata.

    Raises:
      UserError: another architecture, a missing or malformed field, or a variant (experts, partial
        rotary embeddings, sizes that differ by layer, YaRN) that this package does not compute.
    """
    fields = _Fields(gguf)
    architecture = fields.get("general.architecture", str)
    if architecture != "llama":
        raise UserError(
            f"{gguf.path}: the architecture is {architecture!r}; the Llama family ('llama') is "
            "what this package reads."
        )
    if fields.get("llama.expert_count", int, 0):
        raise UserError(f"{gguf.path}: a mixture of experts, which this package does not compute.")
    heads = fields.get("llama.attention.head_count", int)
    hidden = fields.get("llama.embedding_length", int)
    if heads < 1:
        raise UserError(f"{gguf.path}: llama.attention.head_count is {heads}.")
    head_dim = fields.get("llama.attention.key_length", int, hidden // heads)
    for key in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if fields.get(key, int, head_dim) != head_dim:
            raise UserError(
                f"{gguf.path}: {key} is {fields.get(key, int)} and the head size {head_dim}; this "
                "package computes Llama models, where they are equal."
            )
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"{gguf.path}: there is no token_embd.weight [vocabulary, width].")
    theta = _short(fields.get("llama.rope.freq_base", float, 10000.0))
    stop = ("eos_token_id", "eot_token_id", "eom_token_id")
    stops = [fields.get(f"tokenizer.ggml.{key}", int, None) for key in stop]
    return LlamaConfig(
        vocab_size=embedding.shape[0],
        hidden_size=hidden,
        intermediate_size=fields.get("llama.feed_forward_length", int),
        num_hidden_layers=fields.get("llama.block_count", int),
        num_attention_heads=heads,
        num_key_value_heads=fields.get("llama.attention.head_count_kv", int, heads),
        head_dim=head_dim,
        rms_norm_eps=_short(fields.get("llama.attention.layer_norm_rms_epsilon", float)),
        rope_theta=theta,
        rope_scaling=_rope_scaling(gguf, fields, theta, head_dim),
        max_position_embeddings=fields.get("llama.context_length", int),
        attention_bias="blk.0.attn_q.bias" in gguf.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in gguf.tensors,
        tie_word_embeddings="output.weight" not in gguf.tensors,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id", int, None),
        eos_token_id=tuple(dict.fromkeys(token for token in stops if token is not None)),
        pad_token_id=fields.get("tokenizer.ggml.padding_token_id", int, None),
    )


def hf_tensors(gguf: Gguf, config: LlamaConfig) -> dict[str, LazyTensor]:
    """The tensors under Hugging Face names, rows of q and k in Hugging Face's order.

    Tensors that Llama does not have keep their name, for `names.match` to refuse.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in gguf.tensors.items():
        if name == _ROPE_DIVISORS:
            continue
        parts = _NAME.fullmatch(name)
        layer, part, ending = parts.groups() if parts else (None, name, "")
        if layer is None and part in _OUTER:
            name = f"{_OUTER[part]}.{ending}"
        elif layer is not None and part in _INNER:
            name = f"model.layers.{int(layer)}.{_INNER[part]}.{ending}"
            # A wrong number of rows is left to the check of shapes.
            if part in heads and tensor.shape[0] % (2 * heads[part]) == 0:
                decode = functools.partial(_unpermuted, decode=tensor.decode, heads=heads[part])
                tensor = dataclasses.replace(tensor, decode=decode)
        tensors[name] = tensor
    return tensors


def _unpermuted(raw: np.ndarray, decode, heads: int) -> np.ndarray:
    values = decode(raw)
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


class _Fields:
    """Typed access to metadata; a value repeated for every layer counts as one value."""

    def __init__(self, gguf: Gguf):
        self.gguf = gguf

    def get(self, key: str, kind: type, *default: Any) -> Any:
        if key not in self.gguf.metadata:
            if default:
                return default[0]
            raise UserError(f"{self.gguf.path}: the metadata has no {key}.")
        value = self.gguf.metadata[key]
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            value = value[0]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (kind is float and not math.isfinite(value)):
            shown = f"a list of {len(value)} values" if isinstance(value, list) else repr(value)
            raise UserError(f"{self.gguf.path}: {key} should be one {kind.__name__}, got {shown}.")
        return value


def _short(value: float) -> float:
    """The shortest decimal with the same float32 value: 1e-5 is stored as 9.99999974e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(gguf: Gguf, fields: _Fields, theta: float, head_dim: int) -> RopeScaling:
    kind = fields.get("llama.rope.scaling.type", str, "none")
    factor = fields.get("llama.rope.scaling.factor", float, None)
    if factor is None:
        factor = fields.get("llama.rope.scale_linear", float, 1.0)
        kind = "linear" if factor != 1.0 and kind == "none" else kind
    if kind not in ("none", "linear"):
        raise UserError(
            f"{gguf.path}: rope scaling {kind!r} is not supported; models without scaling, with "
            "'linear', and with Llama 3's frequency divisors are."
        )
    if _ROPE_DIVISORS in gguf.tensors:
        if kind == "linear" and factor != 1.0:
            raise UserError(f"{gguf.path}: both {_ROPE_DIVISORS} and linear rope scaling.")
        return _llama3_scaling(gguf, fields, theta, head_dim)
    return RopeScaling("linear", _short(factor)) if kind == "linear" else RopeScaling()


def _llama3_scaling(gguf: Gguf, fields: _Fields, theta: float, head_dim: int) -> RopeScaling:
    """Recovers Llama 3's scaling from the divisors that llama.cpp's converter computed from it."""
    stored = gguf.tensors[_ROPE_DIVISORS].read().astype(np.float64).reshape(-1)
    context = fields.get("llama.rope.scaling.original_context_length", int, _LLAMA3_CONTEXT)
    plausible = np.isfinite(stored).all() and (stored >= 1).all()
    if stored.size == head_dim // 2 and plausible and context > 0:
        factor = _short(float(stored.max()))
        scaling = RopeScaling("llama3", factor, _LLAMA3_LOW, _LLAMA3_HIGH, context)
        if np.allclose(stored, llama3_divisors(scaling, theta, head_dim), rtol=1e-5, atol=0):
            return scaling
    raise UserError(
        f"{gguf.path}: {_ROPE_DIVISORS} is not Llama 3's rope scaling with low_freq_factor 1, "
        f"high_freq_factor 4 and an original context of {context}; use the model as safetensors, "
        "whose config.json states its scaling."
    )


def llama3_divisors(scaling: RopeScaling, theta: float, head_dim: int) -> np.ndarray:
    """What each rotary frequency is divided by under `llama3` scaling, `[head_dim / 2]`.

    1 for wavelengths below context/high, `factor` above context/low, and between them
    1 / ((1 - s) / factor + s) with s = (context/wavelength - low) / (high - low), as transformers
    computes it.
    """
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = scaling.original_max_position_embeddings / wavelength
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return 1 / ((1 - smooth) / scaling.factor + smooth)
