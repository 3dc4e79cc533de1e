"""The hypernetwork: from the embeddings of a condition to the gates of every layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from megan_jax.hypernet.config import HypernetConfig
from megan_jax.hypernet.modulation import (
    ConditionState,
    GateWeights,
    Linear,
    MetaGate,
    Modulation,
)

Initializer = Callable[..., jax.Array]

# The reference's start: Normal(0, initializer_range) everywhere but the attention's Xavier.
REFERENCE_STDDEV = 0.02
# `fan_in` scales the last β layer down, so that training starts near the base model.
FAN_IN_OUTPUT_SCALE = 0.1


def unit_rms(embeddings: jax.Array, eps: float = 1e-12) -> jax.Array:
    """Scales each vector [..., D] to a root mean square of 1."""
    wide = embeddings.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)


def embed_condition(embeddings: jax.Array, norm: str) -> jax.Array:
    """The condition as the hypernetwork reads it: a bag of the target's input embeddings.

    Args:
      embeddings: [B, C, D], rows of the target's embedding table. No gradient flows into them.
      norm: `rms` or `none`, see `HypernetConfig.condition_norm`.
    """
    embeddings = jax.lax.stop_gradient(embeddings)
    return unit_rms(embeddings) if norm == "rms" else embeddings.astype(jnp.float32)


def _normal(stddev: float) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        return stddev * jax.random.normal(key, shape, dtype)

    return init


def _uniform(limit: float) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


class LinearParameters(nn.Module):
    """Holds one linear map, or [L] of them; computes nothing.

    Attributes:
      features: (in, out).
      axes: their logical axes.
      init: the kernel's initialiser.
      bias: whether there is one; it starts at zero.
      stack: L in the layer-wise variant, else 0.
    """

    features: tuple[int, int]
    axes: tuple[str | None, str | None]
    init: Initializer
    bias: bool = True
    stack: int = 0

    @nn.compact
    def __call__(self) -> Linear:
        lead = (self.stack,) if self.stack else ()
        lead_axes = ("layers",) if self.stack else ()
        kernel_init = nn.with_logical_partitioning(self.init, (*lead_axes, *self.axes))
        kernel = self.param("kernel", kernel_init, (*lead, *self.features))
        bias = None
        if self.bias:
            zeros = nn.with_logical_partitioning(
                nn.initializers.zeros_init(), (*lead_axes, self.axes[1])
            )
            bias = self.param("bias", zeros, (*lead, self.features[1]))
        return Linear(kernel, bias)


class AttentionParameters(nn.Module):
    """The four projections of the condition attention at width A (torch's in_proj and out_proj)."""

    width: int
    input_init: Initializer
    output_init: Initializer
    stack: int = 0

    @nn.compact
    def __call__(self) -> dict[str, Linear]:
        inits = {name: self.input_init for name in ("query", "key", "value")}
        inits["out"] = self.output_init
        size, axes = (self.width, self.width), ("hyper", "hyper")
        return {
            name: LinearParameters(size, (axes[0], None), init, True, self.stack, name=name)()
            for name, init in inits.items()
        }


def _fold(first: Linear, second: Linear) -> Linear:
    """One linear map that equals `second(first(x))`; kernels [..., in, out]."""
    bias = jnp.einsum("...i,...io->...o", first.bias, second.kernel) + second.bias
    return Linear(first.kernel @ second.kernel, bias)


def _apply(linear: Linear, x: jax.Array, stacked: bool) -> jax.Array:
    """x [B, C, in] through one map, or through [L] of them to [L, B, C, out]."""
    if not stacked:
        return linear(x)
    y = jnp.einsum("bci,lio->lbco", x, linear.kernel)
    return y if linear.bias is None else y + linear.bias[:, None, None, :]


class MetaGateHypernet(nn.Module):
    """Generates the meta gates of all layers (MeGan, sections 2.3 and 2.4 of the method).

    Attributes:
      config: the variant and its sizes.
      hidden_size, intermediate_size, num_layers: D, F and L of the target network.
    """

    config: HypernetConfig
    hidden_size: int
    intermediate_size: int
    num_layers: int

    @nn.compact
    def __call__(self, embeddings: jax.Array, condition_ids: jax.Array) -> Modulation:
        """Generates the modulation of a batch.

        Args:
          embeddings: [B, C, D], the target's embeddings of the condition tokens.
          condition_ids: [B, C], the condition (1, 2, ...) a token belongs to, 0 for padding.
        """
        c = self.config
        if c.kind == "none":
            return Modulation()
        active = jnp.arange(self.num_layers) >= c.start_layer
        shared = dict(
            condition_ids=condition_ids, active=active, heads=c.heads, divided=c.divided_activation
        )
        if c.kind == "static":
            return Modulation(
                MetaGate(
                    weights=None,
                    condition=None,
                    layer_embedding=None,
                    logits=self._static_logits(),
                    **shared,
                )
            )
        stack = self.num_layers if c.kind == "layerwise" else 0
        weights, condition = self._generate(embed_condition(embeddings, c.condition_norm), stack)
        return Modulation(
            MetaGate(
                weights=weights,
                condition=condition,
                layer_embedding=None if stack else self._layer_embeddings(),
                logits=None,
                layerwise=bool(stack),
                **shared,
            )
        )

    def _init(self, fan_in: int, scale: float = 1.0) -> Initializer:
        if self.config.init == "reference":
            return _normal(REFERENCE_STDDEV)
        return _normal(scale / math.sqrt(fan_in))

    def _static_logits(self) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.zeros_init(), ("layers", "mlp"))
        shape = (self.num_layers, self.intermediate_size)
        return self.param("logits", init, shape)

    def _layer_embeddings(self) -> jax.Array:
        width = self.config.attention_width(self.hidden_size)
        init = nn.with_logical_partitioning(_normal(REFERENCE_STDDEV), ("layers", "hyper"))
        return LayerEmbeddings((self.num_layers, width), init, name="layer_embeddings")()

    def _generate(self, condition: jax.Array, stack: int) -> tuple[GateWeights, ConditionState]:
        c, d = self.config, self.hidden_size
        width = c.attention_width(d)
        xavier = _uniform(math.sqrt(6.0 / (4 * width)))
        attention = AttentionParameters(
            width,
            xavier if c.init == "reference" else self._init(width),
            self._init(width),
            stack,
            name="attention",
        )()
        query, key, value = (attention[name] for name in ("query", "key", "value"))
        if c.width:
            names = ("query_proj", "key_proj", "value_proj")
            first = [
                LinearParameters(
                    (d, width), ("embed", "hyper"), self._init(d), True, stack, name=name
                )()
                for name in names
            ]
            # Two stacked linear maps without anything between them are one.
            query, key, value = map(_fold, first, (query, key, value))
        scale = (width // c.heads) ** -0.5
        weights = GateWeights(
            query=None if c.kind == "pooled" else Linear(query.kernel * scale, query.bias * scale),
            out=attention["out"],
            beta=self._beta_layers(width, stack),
        )
        pooled = c.kind == "pooled"
        state = ConditionState(
            key=None if pooled else _apply(key, condition, bool(stack)),
            value=_apply(value, condition, bool(stack)),
        )
        return weights, state

    def _beta_layers(self, width: int, stack: int) -> tuple[Linear, ...]:
        c, f = self.config, self.intermediate_size
        # R > 0: hidden layers R -> R, then R -> F. R = 0: D -> F, then F -> F (the reference).
        hidden = [width] * c.beta_layers if c.width else [width] + [f] * (c.beta_layers - 1)
        sizes = [*hidden, f]
        layers = []
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            last = i == c.beta_layers - 1
            # One mesh axis may split one axis of an array: of a hidden layer, its input.
            axes = ("hyper" if fan_in == width else None, "mlp" if fan_out == f else None)
            init = self._init(fan_in, FAN_IN_OUTPUT_SCALE if last else 1.0)
            layers.append(
                LinearParameters(
                    (fan_in, fan_out), axes, init, c.bias, stack, name=f"beta_layers_{i}"
                )()
            )
        return tuple(layers)


class LayerEmbeddings(nn.Module):
    """One vector per layer of the target network: [L, A]."""

    shape: tuple[int, int]
    init: Initializer

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("embedding", self.init, self.shape)
