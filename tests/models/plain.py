"""Llama and the meta gate once more: numpy in float64, one token, one head at a time.

Written from the formulas and as slow as they are; the parameters are all it shares with the
package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# x [T, D] of a layer's feed-forward block -> β [T, F] of that layer.
Gate = Callable[[int, np.ndarray], np.ndarray]


def frequencies(
    head_dim: int,
    theta: float,
    kind: str = "default",
    factor: float = 1.0,
    low: float = 1.0,
    high: float = 4.0,
    original: int = 8192,
) -> list[float]:
    """Radians per token of each rotated pair."""
    result = []
    for i in range(head_dim // 2):
        frequency = theta ** (-2 * i / head_dim)
        if kind == "linear":
            frequency /= factor
        if kind == "llama3":
            wavelength = 2 * math.pi / frequency
            if wavelength > original / low:
                frequency /= factor
            elif wavelength >= original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequency = (1 - smooth) * frequency / factor + smooth * frequency
        result.append(frequency)
    return result


def rotate(vector: np.ndarray, position: int, speeds: list[float]) -> np.ndarray:
    """Rotates pair (i, i + H/2) by position × speed."""
    half = len(speeds)
    out = np.zeros_like(vector)
    for i, speed in enumerate(speeds):
        angle = position * speed
        a, b = vector[i], vector[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = a * math.sin(angle) + b * math.cos(angle)
    return out


def softmax(scores: list[float]) -> np.ndarray:
    values = np.exp(np.asarray(scores) - max(scores))
    return values / values.sum()


def norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return np.stack([row / math.sqrt(float(np.mean(row * row)) + eps) * scale for row in x])


def _layer(tree: Any, index: int) -> Any:
    if isinstance(tree, dict):
        return {key: _layer(value, index) for key, value in tree.items()}
    return np.asarray(tree[index], np.float64)


def self_attention(
    x: np.ndarray, p: dict, config: Any, positions: list[int], visible: np.ndarray
) -> np.ndarray:
    """[T, D] -> [T, D]; `visible[t, s]` says whether token t sees token s."""
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    scaling = config.rope_scaling
    speeds = frequencies(
        config.head_dim,
        config.rope_theta,
        scaling.kind,
        scaling.factor,
        scaling.low_freq_factor,
        scaling.high_freq_factor,
        scaling.original_max_position_embeddings,
    )

    def projected(name: str, head: int) -> np.ndarray:
        y = x @ p[name]["kernel"][:, head, :]
        return y + p[name]["bias"][head] if "bias" in p[name] else y

    out = np.zeros_like(x)
    for head in range(heads):
        group = head // (heads // groups)
        query, key = projected("q_proj", head), projected("k_proj", group)
        value = projected("v_proj", group)
        for t in range(len(x)):
            turned = rotate(query[t], positions[t], speeds)
            seen = [s for s in range(len(x)) if visible[t, s]]
            scores = [
                float(turned @ rotate(key[s], positions[s], speeds)) / math.sqrt(config.head_dim)
                for s in seen
            ]
            mixed = sum(w * value[s] for w, s in zip(softmax(scores), seen, strict=True))
            out[t] += mixed @ p["o_proj"]["kernel"][head]
    return out + p["o_proj"]["bias"] if "bias" in p["o_proj"] else out


def mlp(x: np.ndarray, p: dict, beta: np.ndarray | float) -> np.ndarray:
    """W_down (g·σ((1+β)g)·u)."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        y = x @ p[name]["kernel"]
        return y + p[name]["bias"] if "bias" in p[name] else y

    g, u = linear("gate_proj", x), linear("up_proj", x)
    return linear("down_proj", g / (1 + np.exp(-(1 + beta) * g)) * u)


def llama(
    params: dict,
    config: Any,
    tokens: list[int],
    positions: list[int] | None = None,
    visible: np.ndarray | None = None,
    gate: Gate | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [T, V] and β [L, T, F] of one row."""
    target, length = params["target"], len(tokens)
    positions = list(range(length)) if positions is None else positions
    visible = np.tril(np.ones((length, length), bool)) if visible is None else visible
    table = np.asarray(target["embed_tokens"]["embedding"], np.float64)
    x = table[list(tokens)]
    betas = []
    for index in range(config.num_hidden_layers):
        p = _layer(target["layers"], index)
        eps = config.rms_norm_eps
        normed = norm(x, p["input_layernorm"]["scale"], eps)
        x = x + self_attention(normed, p["self_attn"], config, positions, visible)
        normed = norm(x, p["post_attention_layernorm"]["scale"], eps)
        beta = np.zeros((length, config.intermediate_size))
        if gate is not None:
            beta = gate(index, normed)
        betas.append(beta)
        x = x + mlp(normed, p["mlp"], beta)
    x = norm(x, np.asarray(target["norm"]["scale"], np.float64), config.rms_norm_eps)
    head = table.T if config.tie_word_embeddings else np.asarray(target["lm_head"]["kernel"])
    return x @ head, np.stack(betas)


def meta_gate(params: dict, h: Any, condition: list[int]) -> Gate:
    """β of `shared` and `layerwise` hypernetworks, every projection applied one after another.

    Args:
      params: both networks' parameters.
      h: the hypernetwork's config.
      condition: the tokens of the row's one condition.
    """
    table = np.asarray(params["target"]["embed_tokens"]["embedding"], np.float64)
    c = table[list(condition)]
    if h.condition_norm == "rms":
        c = np.stack([row / math.sqrt(float(np.mean(row * row))) for row in c])

    def gate(index: int, x: np.ndarray) -> np.ndarray:
        p = params["hyper"]
        if h.kind == "layerwise":
            p = _layer(p, index)

        def linear(place: dict, x: np.ndarray) -> np.ndarray:
            y = x @ np.asarray(place["kernel"], np.float64)
            return y + np.asarray(place["bias"], np.float64) if "bias" in place else y

        query, key, value = x, c, c
        if h.width:
            query, key, value = (
                linear(p[name], y)
                for name, y in (("query_proj", x), ("key_proj", c), ("value_proj", c))
            )
        attention = p["attention"]
        query = linear(attention["query"], query)
        key, value = linear(attention["key"], key), linear(attention["value"], value)
        size = query.shape[1] // h.heads
        mixed = np.zeros((len(x), query.shape[1]))
        for head in range(h.heads):
            part = slice(head * size, (head + 1) * size)
            for t in range(len(x)):
                scores = [float(query[t, part] @ row) / math.sqrt(size) for row in key[:, part]]
                mixed[t, part] = softmax(scores) @ value[:, part]
        z = linear(attention["out"], mixed)
        if h.kind == "shared":
            z = z + np.asarray(p["layer_embeddings"]["embedding"][index], np.float64)
        for layer in range(h.beta_layers):
            z = np.tanh(linear(p[f"beta_layers_{layer}"], z))
        return 0.5 * z * (index >= h.start_layer)

    return gate
