"""Folding modulations into the target's weights, where their kind allows it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from megan_jax.errors import UserError
from megan_jax.hypernet.modulation import Modulation
from megan_jax.models.meta_gate import BETA_LIMIT

Params = dict[str, Any]


def merge_modulation(target: Params, modulation: Modulation) -> Params:
    """Returns target parameters that compute, without modulation, what `target` does with it.

    Of the gates only those of the static variant can be merged: their β belongs to a layer and
    channel, and `g·σ((1+β)g)·u = silu((1+β)g)·(u/(1+β))` moves it into the two projections. Tokens
    that stand under no condition are gated too afterwards.

    Args:
      target: the `"target"` part of a parameter tree.
      modulation: what the hypernetwork generated.

    Raises:
      UserError: gates that differ from token to token.
    """
    gate = modulation.gate
    if gate is None:
        return target
    if gate.logits is None:
        raise UserError(
            "gates that a condition generates can't be merged into the weights, since β differs "
            "from token to token."
        )
    beta = BETA_LIMIT * jnp.tanh(gate.logits) * gate.active[:, None]
    slope = 1 + beta

    def scaled(projection: Params, factor: Any) -> Params:
        merged = {"kernel": projection["kernel"] * factor[:, None, :]}
        if "bias" in projection:
            merged["bias"] = projection["bias"] * factor
        return merged

    mlp = target["layers"]["mlp"]
    mlp = {
        **mlp,
        "gate_proj": scaled(mlp["gate_proj"], slope),
        "up_proj": scaled(mlp["up_proj"], 1 / slope),
    }
    return {**target, "layers": {**target["layers"], "mlp": mlp}}
