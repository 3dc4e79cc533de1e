"""The target network: a Llama-family decoder whose SwiGLU blocks accept generated gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from megan_jax.hypernet.modulation import Modulation, merge
from megan_jax.models import attention, rotary
from megan_jax.models.cache import Cache, write
from megan_jax.models.config import LlamaConfig
from megan_jax.models.meta_gate import gated_activation, layer_beta
from megan_jax.parallel.axes import constrain

Initializer = Callable[..., jax.Array]


@struct.dataclass
class Precision:
    """Static choices of the compiled program.

    Attributes:
      compute: dtype of activations and of weights as they enter a matmul.
      remat: `none`, or `full` to recompute each layer in the backward pass.
      scan: whether the layers run as one scanned loop or unrolled.
    """

    compute: Any = struct.field(pytree_node=False, default=jnp.float32)
    remat: str = struct.field(pytree_node=False, default="none")
    scan: bool = struct.field(pytree_node=False, default=True)


@struct.dataclass
class LayerInputs:
    """What every layer of one forward pass shares."""

    cos: jax.Array
    sin: jax.Array
    mask: jax.Array
    positions: jax.Array
    condition_index: jax.Array
    penalty_mask: jax.Array
    modulation: Modulation
    penalty: str = struct.field(pytree_node=False, default="none")
    return_beta: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class TargetOutput:
    """The result of the target network.

    Attributes:
      hidden: [B, T, D] after the last norm; `Decoder.unembed` makes logits of it.
      cache: the cache with the new keys and values, or None.
      beta: [L, B, T, F] if asked for, else None.
      penalty: the sum of |β| or β² over gated layers, channels and tokens of the penalty mask.
    """

    hidden: jax.Array
    cache: Cache | None
    beta: jax.Array | None
    penalty: jax.Array


def _normal(stddev: float, *axes: str) -> Initializer:
    return nn.with_logical_partitioning(nn.initializers.normal(stddev), axes)


def _zeros(*axes: str) -> Initializer:
    return nn.with_logical_partitioning(nn.initializers.zeros_init(), axes)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis; statistics in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
        scale = self.param("scale", ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return scale.astype(x.dtype) * wide.astype(x.dtype)


class Projection(nn.Module):
    """`einsum(equation, x, kernel) + bias` with named axes.

    Attributes:
      equation: the einsum.
      shape, axes: the kernel's shape and logical axes.
      bias: how many trailing axes of the kernel the bias has; 0 for none.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    stddev: float
    bias: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", _normal(self.stddev, *self.axes), self.shape)
        y = jnp.einsum(self.equation, x, kernel.astype(x.dtype))
        if self.bias:
            bias = self.param("bias", _zeros(*self.axes[-self.bias :]), self.shape[-self.bias :])
            y = y + bias.astype(y.dtype)
        return y


class SelfAttention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, inputs: LayerInputs, cached: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        c = self.config
        d, n, k, h = c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim
        biased = 2 if c.attention_bias else 0

        def project(name: str, heads: int, axis: str) -> jax.Array:
            return Projection(
                "btd,dnh->btnh",
                (d, heads, h),
                ("embed", axis, "head_dim"),
                c.initializer_range,
                biased,
                name=name,
            )(x)

        query = rotary.rotate(project("q_proj", n, "heads"), inputs.cos, inputs.sin)
        key = rotary.rotate(project("k_proj", k, "kv_heads"), inputs.cos, inputs.sin)
        value = project("v_proj", k, "kv_heads")
        query = constrain(query, "act_batch", "act_length", "act_heads", None)
        if cached is not None:
            start = inputs.positions[:, 0]
            cached = Cache(write(cached.key, key, start), write(cached.value, value, start))
            key, value = cached.key.astype(query.dtype), cached.value.astype(query.dtype)
        key = constrain(key, "act_batch", "act_key_length", "act_kv_heads", None)
        value = constrain(value, "act_batch", "act_key_length", "act_kv_heads", None)
        mixed = attention.attend(query, key, value, inputs.mask)
        out = Projection(
            "btnh,nhd->btd",
            (n, h, d),
            ("heads", "head_dim", "embed"),
            c.initializer_range,
            1 if c.attention_bias else 0,
            name="o_proj",
        )(mixed)
        return out, cached


class GatedMLP(nn.Module):
    """SwiGLU with β gates; returns the block's output and β (None without a gate)."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, inputs: LayerInputs, modulation: Modulation
    ) -> tuple[jax.Array, jax.Array | None]:
        c = self.config

        def project(name: str, equation: str, shape: tuple[int, int], axes: tuple[str, str]):
            bias = 1 if c.mlp_bias else 0
            return Projection(equation, shape, axes, c.initializer_range, bias, name=name)

        wide, narrow = (c.hidden_size, c.intermediate_size), (c.intermediate_size, c.hidden_size)
        gate = project("gate_proj", "btd,df->btf", wide, ("embed", "mlp"))(x)
        up = project("up_proj", "btd,df->btf", wide, ("embed", "mlp"))(x)
        gate = constrain(gate, "act_batch", "act_length", "act_mlp")
        up = constrain(up, "act_batch", "act_length", "act_mlp")
        beta, divided = None, False
        if modulation.gate is not None:
            beta = layer_beta(x, modulation.gate, inputs.condition_index)
            divided = modulation.gate.divided
        hidden = gated_activation(gate, up, beta, divided)
        return project("down_proj", "btf,fd->btd", narrow, ("mlp", "embed"))(hidden), beta


def _penalty(beta: jax.Array, mask: jax.Array, kind: str) -> jax.Array:
    size = jnp.abs(beta) if kind == "l1" else jnp.square(beta)
    return jnp.sum(size * mask[..., None])


class Block(nn.Module):
    """One decoder layer; the body of the layer scan."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, scanned: tuple[Modulation, Cache | None], inputs: LayerInputs
    ) -> tuple[jax.Array, tuple[Cache | None, jax.Array | None, jax.Array]]:
        eps = self.config.rms_norm_eps
        modulation = merge(scanned[0], inputs.modulation)
        normed = RMSNorm(eps, name="input_layernorm")(x)
        mixed, cached = SelfAttention(self.config, name="self_attn")(normed, inputs, scanned[1])
        x = constrain(x + mixed, "act_batch", "act_length", "act_embed")
        normed = RMSNorm(eps, name="post_attention_layernorm")(x)
        added, beta = GatedMLP(self.config, name="mlp")(normed, inputs, modulation)
        x = constrain(x + added, "act_batch", "act_length", "act_embed")
        penalty = jnp.zeros((), jnp.float32)
        if beta is not None and inputs.penalty != "none":
            penalty = _penalty(beta, inputs.penalty_mask, inputs.penalty)
        if not inputs.return_beta:
            beta = None
        elif beta is None:
            beta = jnp.zeros((*x.shape[:2], self.config.intermediate_size), jnp.float32)
        return x, (cached, beta, penalty)


class Decoder(nn.Module):
    """Embedding, L scanned blocks, final norm; the head is applied where logits are needed."""

    config: LlamaConfig
    precision: Precision = Precision()

    def setup(self) -> None:
        c = self.config
        self.embed_tokens = nn.Embed(
            c.vocab_size,
            c.hidden_size,
            embedding_init=_normal(c.initializer_range, "vocab", "embed"),
        )
        block = Block
        if self.precision.remat == "full":
            block = nn.remat(Block, prevent_cse=not self.precision.scan)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=c.num_hidden_layers,
            unroll=1 if self.precision.scan else c.num_hidden_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c)
        self.norm = RMSNorm(c.rms_norm_eps)
        if not c.tie_word_embeddings:
            self.lm_head = Projection(
                "...d,dv->...v",
                (c.hidden_size, c.vocab_size),
                ("embed", "vocab"),
                c.initializer_range,
            )

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Rows of the input embedding table: tokens [...] -> [..., D]."""
        return jnp.take(self.embed_tokens.embedding, tokens, axis=0)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        modulation: Modulation | None = None,
        condition_index: jax.Array | None = None,
        cache: Cache | None = None,
        key_mask: jax.Array | None = None,
        penalty: str = "none",
        penalty_mask: jax.Array | None = None,
        return_beta: bool = False,
    ) -> TargetOutput:
        """Runs the layers.

        Args:
          tokens, positions, segment_ids: [B, T]; see `megan_jax.data.batch.Batch`.
          modulation: what the hypernetwork generated; None is the plain base model.
          condition_index: [B, T], the condition (1, 2, ...) a token stands under, 0 for none;
            None puts every token under condition 1.
          cache: written and read where given; `positions` then say which slots.
          key_mask: [B, T], False removes a key.
          penalty: `l1` or `l2` to sum the size of β over `penalty_mask` [B, T], or `none`.
          return_beta: also return β of every layer.
        """
        dtype = self.precision.compute
        x = constrain(self.embed(tokens).astype(dtype), "act_batch", "act_length", "act_embed")
        if cache is None:
            mask = attention.self_mask(positions, segment_ids, key_mask)
        else:
            mask = attention.cache_mask(positions, cache.slots)
        cos, sin = rotary.tables(self.config, positions)
        scanned, broadcast = (modulation or Modulation()).split()
        inputs = LayerInputs(
            cos=cos,
            sin=sin,
            mask=mask,
            positions=positions,
            condition_index=jnp.ones_like(tokens) if condition_index is None else condition_index,
            penalty_mask=jnp.ones_like(tokens) if penalty_mask is None else penalty_mask,
            modulation=broadcast,
            penalty=penalty,
            return_beta=return_beta,
        )
        x, (cached, beta, penalties) = self.layers(x, (scanned, cache), inputs)
        return TargetOutput(
            hidden=self.norm(x), cache=cached, beta=beta, penalty=jnp.sum(penalties)
        )

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """Logits in float32: hidden [..., D] -> [..., V]."""
        if self.config.tie_word_embeddings:
            table = self.embed_tokens.embedding.astype(hidden.dtype)
            logits = jnp.einsum("...d,vd->...v", hidden, table)
        else:
            logits = self.lm_head(hidden)
        return logits.astype(jnp.float32)
