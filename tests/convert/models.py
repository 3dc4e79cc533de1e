"""A tiny target network, its Hugging Face tensors spelled out, and folders of it on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from megan_jax.models.config import LlamaConfig

CASES = Path(__file__).parent.parent / "parity" / "cases"
CONFIG = LlamaConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=500000.0,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=(2, 3),
)


def hf_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes as transformers' LlamaForCausalLM has them."""
    d, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d)}
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.input_layernorm.weight"] = (d,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (d,)
        for name, out, into in (("q", q, d), ("k", kv, d), ("v", kv, d), ("o", d, q)):
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (out, into)
            if config.attention_bias:
                shapes[f"{layer}.self_attn.{name}_proj.bias"] = (out,)
        for name, out, into in (("gate", f, d), ("up", f, d), ("down", d, f)):
            shapes[f"{layer}.mlp.{name}_proj.weight"] = (out, into)
            if config.mlp_bias:
                shapes[f"{layer}.mlp.{name}_proj.bias"] = (out,)
    shapes["model.norm.weight"] = (d,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (v, d)
    return shapes


def random_tensors(config: LlamaConfig, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = hf_shapes(config)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_folder(
    folder: Path, config: LlamaConfig = CONFIG, tensors=None, fields: dict | None = None
) -> Path:
    """A Hugging Face folder written with the safetensors library."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**config.to_hf(), **(fields or {})})
    (folder / "config.json").write_text(text)
    save_file(random_tensors(config) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def leaves(tree: dict, path: str = "") -> dict[str, np.ndarray]:
    """A nested dict as `{"a/b": leaf}`."""
    flat = {}
    for key, value in tree.items():
        name = f"{path}/{key}" if path else key
        flat.update(leaves(value, name) if isinstance(value, dict) else {name: value})
    return flat
