"""What a hypernetwork hands to the target network: plain arrays, an input of its layer scan."""

from __future__ import annotations

from typing import Any

import jax
from flax import struct


@struct.dataclass
class Linear:
    """x @ kernel + bias; kernel [..., in, out], bias [..., out] or None."""

    kernel: jax.Array
    bias: jax.Array | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)


@struct.dataclass
class GateWeights:
    """The part of a meta gate that no condition changes.

    Attributes:
      query: D -> A, already scaled by the inverse root of the head size; None in the pooled
        variant, which attends to all condition tokens alike.
      out: A -> A, the attention's output projection.
      beta: the β layers, A -> ... -> F.
    """

    query: Linear | None
    out: Linear
    beta: tuple[Linear, ...]


@struct.dataclass
class ConditionState:
    """The part of a meta gate that a condition determines; the only part worth caching.

    Attributes:
      key: [B, C, A], or [L, B, C, A] layer-wise; None in the pooled variant.
      value: the same shape.
    """

    key: jax.Array | None
    value: jax.Array


@struct.dataclass
class MetaGate:
    """The gates β of all SwiGLU blocks (MeGan, section 2 of the method).

    Attributes:
      weights: see `GateWeights`; leaves lead with [L] layer-wise.
      condition: see `ConditionState`; None in the static variant.
      condition_ids: [B, C], the condition that a condition token belongs to; 0 is padding.
      layer_embedding: [L, A], or None layer-wise.
      logits: [L, F], the learned β before its tanh (static variant), else None.
      active: [L] booleans, the layers that are gated.
      heads: attention heads; they divide A.
      layerwise: whether weights and condition lead with [L].
      divided: compute `silu((1+β)g)/(1+β)` in place of `g·σ((1+β)g)`.
    """

    weights: GateWeights | None
    condition: ConditionState | None
    condition_ids: jax.Array
    layer_embedding: jax.Array | None
    logits: jax.Array | None
    active: jax.Array
    heads: int = struct.field(pytree_node=False, default=1)
    layerwise: bool = struct.field(pytree_node=False, default=False)
    divided: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Modulation:
    """Everything generated from the conditions of a batch, each kind at most once.

    `Modulation()` is the null element: with it the target is the plain base model.
    """

    gate: MetaGate | None = None

    def split(self) -> tuple[Modulation, Modulation]:
        """Returns (scanned, broadcast): leaves that lead with [L], and the others."""
        gate = self.gate
        if gate is None:
            return Modulation(), Modulation()
        shared = dict(weights=None, condition=None) if not gate.layerwise else {}
        scanned = gate.replace(condition_ids=None, **shared)
        own = dict(weights=None, condition=None) if gate.layerwise else {}
        broadcast = gate.replace(layer_embedding=None, logits=None, active=None, **own)
        return Modulation(gate=scanned), Modulation(gate=broadcast)


def merge(scanned: Modulation, broadcast: Modulation) -> Modulation:
    """Puts one layer's slice of the scanned part and the broadcast part together again."""
    if scanned.gate is None or broadcast.gate is None:
        return Modulation()

    def either(name: str) -> Any:
        mine = getattr(scanned.gate, name)
        return getattr(broadcast.gate, name) if mine is None else mine

    names = ("weights", "condition", "condition_ids", "layer_embedding", "logits", "active")
    return Modulation(gate=scanned.gate.replace(**{name: either(name) for name in names}))
