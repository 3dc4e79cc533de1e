"""A target network and its hypernetwork as one pure function of `params`."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.hypernet.generator import MetaGateHypernet
from megan_jax.hypernet.modulation import Modulation
from megan_jax.models import rotary
from megan_jax.models.cache import Cache
from megan_jax.models.config import LlamaConfig
from megan_jax.models.decoder import Decoder, Precision, TargetOutput

Params = dict[str, Any]


@struct.dataclass
class Output:
    """What `Model.apply` returns: logits [B, T, V], and β [L, B, T, F] or None."""

    logits: jax.Array
    beta: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """A condition-controlled language model. Hashable; holds shapes and choices, no arrays.

    Attributes:
      config: the target network.
      hypernet_config: the hypernetwork, or None for a plain base model.
      precision: compute dtype and memory choices.

    `params` is `{"target": …, "hyper": …}`; see `init` for its tree.
    """

    config: LlamaConfig
    hypernet_config: HypernetConfig | None = None
    precision: Precision = dataclasses.field(default_factory=Precision)

    @functools.cached_property
    def target(self) -> Decoder:
        """The target network's module."""
        return Decoder(self.config, self.precision)

    @functools.cached_property
    def hypernet(self) -> MetaGateHypernet | None:
        """The hypernetwork's module, or None.

        Raises:
          UserError: a start layer beyond the target network's last.
        """
        if self.hypernet_config is None or self.hypernet_config.kind == "none":
            return None
        c = self.config
        if self.hypernet_config.start_layer >= c.num_hidden_layers:
            raise UserError(
                f"hypernet.start_layer ({self.hypernet_config.start_layer}) leaves none of the "
                f"model's {c.num_hidden_layers} layers gated; the last one is "
                f"{c.num_hidden_layers - 1}."
            )
        return MetaGateHypernet(
            self.hypernet_config, c.hidden_size, c.intermediate_size, c.num_hidden_layers
        )

    def init_target(self, key: jax.Array) -> Params:
        """Random parameters of the target network, boxed with their logical axes."""
        tokens = jnp.zeros((1, 1), jnp.int32)

        def everything(module: Decoder, tokens: jax.Array) -> jax.Array:
            return module.unembed(module(tokens, tokens, tokens).hidden)

        return self.target.init(key, tokens, method=everything)["params"]

    def init_hyper(self, key: jax.Array) -> Params:
        """Random parameters of the hypernetwork, boxed with their logical axes."""
        if self.hypernet is None:
            return {}
        embeddings = jnp.zeros((1, 1, self.config.hidden_size), jnp.float32)
        ids = jnp.ones((1, 1), jnp.int32)
        return self.hypernet.init(key, embeddings, ids).get("params", {})

    def init(self, key: jax.Array) -> Params:
        """Random parameters of both, as a plain pytree of arrays."""
        target_key, hyper_key = jax.random.split(key)
        params = {"target": nn.unbox(self.init_target(target_key))}
        if self.hypernet is not None:
            params["hyper"] = nn.unbox(self.init_hyper(hyper_key))
        return params

    def logical_axes(self) -> Params:
        """The logical axis names of every parameter, in the tree of `init`."""
        key = jax.random.key(0)
        axes = {"target": nn.get_partition_spec(jax.eval_shape(self.init_target, key))}
        if self.hypernet is not None:
            axes["hyper"] = nn.get_partition_spec(jax.eval_shape(self.init_hyper, key))
        return axes

    def abstract(self) -> Params:
        """Shapes and dtypes of every parameter, in the tree of `init`."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def modulate(
        self, params: Params, condition_tokens: jax.Array, condition_ids: jax.Array
    ) -> Modulation:
        """Runs the hypernetwork: once per condition, whatever is computed under it.

        Args:
          params: the parameters of both networks.
          condition_tokens: [B, C].
          condition_ids: [B, C]; see `megan_jax.data.batch.Batch`.
        """
        if self.hypernet is None:
            return Modulation()
        embeddings = self.target.apply(
            {"params": params["target"]}, condition_tokens, method="embed"
        )
        return self.hypernet.apply({"params": params["hyper"]}, embeddings, condition_ids)

    def run_target(self, params: Params, *args: Any, **kwargs: Any) -> TargetOutput:
        """Runs the target network; arguments as in `Decoder.__call__`."""
        return self.target.apply({"params": params["target"]}, *args, **kwargs)

    def unembed(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] in float32 of hidden [..., D]."""
        return self.target.apply({"params": params["target"]}, hidden, method="unembed")

    def apply(
        self,
        params: Params,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        condition_ids: jax.Array | None = None,
        condition_mask: jax.Array | None = None,
        return_beta: bool = False,
    ) -> Output:
        """Logits of whole sequences under one condition per row. Pure.

        Args:
          params: `{"target": …, "hyper": …}`.
          input_ids: [B, T].
          attention_mask: [B, T], 0 removes a key, as in Hugging Face; None keeps all.
          condition_ids: [B, C] tokens of each row's condition; None is the base model.
          condition_mask: [B, C], 0 marks padding of the condition; a row of zeros has no
            condition and gets the base model. None keeps all.
          return_beta: also return β [L, B, T, F].

        Raises:
          UserError: a sequence beyond `max_position_embeddings` under `dynamic` rope scaling.
        """
        batch, length = input_ids.shape
        rotary.check_length(self.config, length)
        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        modulation, index = Modulation(), jnp.zeros_like(input_ids)
        if condition_ids is not None:
            if condition_mask is None:
                condition_mask = jnp.ones_like(condition_ids)
            owners = (condition_mask != 0).astype(jnp.int32)
            modulation = self.modulate(params, condition_ids, owners)
            index = jnp.broadcast_to(jnp.max(owners, axis=1, keepdims=True), (batch, length))
        out = self.run_target(
            params,
            input_ids,
            positions,
            jnp.ones_like(input_ids),
            modulation=modulation,
            condition_index=index,
            key_mask=attention_mask,
            return_beta=return_beta,
        )
        return Output(logits=self.unembed(params, out.hidden), beta=out.beta)

    def empty_cache(self, batch: int, slots: int) -> Cache:
        """A cache for `batch` rows of at most `slots` tokens, in the compute dtype.

        Raises:
          UserError: more slots than `dynamic` rope scaling allows.
        """
        rotary.check_length(self.config, slots)
        return Cache.zeros(self.config, batch, slots, self.precision.compute)
