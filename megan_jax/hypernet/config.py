"""The shape and the conventions of a hypernetwork that generates meta gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from megan_jax.errors import UserError, nearest

KINDS = ("shared", "layerwise", "pooled", "static", "none")
INITS = ("fan_in", "reference")
CONDITION_NORMS = ("rms", "none")
PENALTIES = ("none", "l1", "l2")
PENALTY_REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class HypernetConfig:
    """A generator of β gates (MeGan, arXiv 2605.01973).

    Attributes:
      kind: `shared` (one generator and an embedding per layer; the main method), `layerwise` (one
        generator per layer), `pooled` (shared, but β depends on the condition only), `static` (a
        learned β per layer and channel, no condition) or `none` (the plain target network).
      width: R, the reduced width of the cross-attention; 0 attends at the full model width.
      heads: attention heads; they divide the attention width.
      bias: whether β layers have biases (attention projections always do).
      beta_layers: n, the number of linear maps with tanh that end in β.
      start_layer: the first gated layer; layers before it compute the plain SwiGLU.
      init: `fan_in` or `reference` (Normal(0, 0.02), Xavier in the attention, as the reference).
      condition_norm: `rms` scales every condition embedding to unit RMS, `none` leaves it.
      condition_length: C, tokens of a condition in training and evaluation; the rest is cut.
      divided_activation: compute `silu((1+β)g)/(1+β)`, as the reference does, in place of
        `g·σ((1+β)g)`; the same function in exact arithmetic.
      freeze_layer_embeddings: leave the layer embeddings out of the trainable parameters.
      penalty, penalty_weight, penalty_reduction: the penalty on β added to the loss, over gated
        real tokens.
      penalty_includes_padding: let the penalty run over every position, as the reference does.
    """

    kind: str = "shared"
    width: int = 64
    heads: int = 1
    bias: bool = False
    beta_layers: int = 1
    start_layer: int = 0
    init: str = "fan_in"
    condition_norm: str = "rms"
    condition_length: int = 64
    divided_activation: bool = False
    freeze_layer_embeddings: bool = False
    penalty: str = "none"
    penalty_weight: float = 0.0
    penalty_reduction: str = "mean"
    penalty_includes_padding: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (
            ("kind", KINDS),
            ("init", INITS),
            ("condition_norm", CONDITION_NORMS),
            ("penalty", PENALTIES),
            ("penalty_reduction", PENALTY_REDUCTIONS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise UserError(
                    f"hypernet.{name} is {value!r}; it must be one of {', '.join(allowed)}."
                    f"{nearest(str(value), allowed)}"
                )
        for name, least in (
            ("width", 0),
            ("heads", 1),
            ("beta_layers", 1),
            ("start_layer", 0),
            ("condition_length", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(f"hypernet.{name} must be an integer >= {least}, got {value!r}.")
        if self.width and self.width % self.heads:
            raise UserError(
                f"hypernet.width ({self.width}) is not a multiple of hypernet.heads ({self.heads})."
            )

    def attention_width(self, hidden_size: int) -> int:
        """A: the width at which the condition is attended to, R or the model width D."""
        width = self.width or hidden_size
        if width % self.heads:
            raise UserError(
                f"hypernet.heads ({self.heads}) does not divide the model width ({hidden_size})."
            )
        return width

    @classmethod
    def from_reference(cls, fields: Mapping[str, Any], **overrides: Any) -> HypernetConfig:
        """Reads the `meta_swishglu_*` keys of a reference checkpoint.

        The conventions of the reference are switched on: plain embeddings, the divided activation,
        frozen layer embeddings, the summed L1 penalty over padding.

        Args:
          fields: the checkpoint's config.json.
          **overrides: fields of this class that replace what was read.

        Raises:
          UserError: a checkpoint without the keys, or one whose attention is not keyed by `x`.
        """
        prefix = "meta_swishglu_"
        if f"{prefix}shared_hyper" not in fields and f"{prefix}attn_key" not in fields:
            raise UserError("config.json has no meta_swishglu_* keys: not a MeGan checkpoint.")
        key = fields.get(f"{prefix}attn_key", "x")
        if key != "x":
            raise UserError(
                f"config.json: meta_swishglu_attn_key is {key!r}; only 'x' (queries from the "
                "block's input) is a causal model, and the only value the reference can run."
            )

        def number(name: str, default: float) -> float:
            value = fields.get(f"{prefix}{name}")
            value = default if value is None else value
            if not isinstance(value, int | float):
                raise UserError(f"config.json: {prefix}{name} must be a number, got {value!r}.")
            return value

        width = int(number("beta_hidden_dim", 0))
        weight = float(number("l2_lambda", 0.0))
        read = dict(
            kind="shared" if fields.get(f"{prefix}shared_hyper") else "layerwise",
            width=width,
            # The reference ignores its own head count when R > 0 (quirk Q5).
            heads=1 if width else int(number("attn_head_num", 1)),
            bias=bool(number("mlp_bias", 0)),
            beta_layers=int(number("beta_num_layer", 1)),
            init="reference",
            condition_norm="none",
            divided_activation=True,
            freeze_layer_embeddings=True,
            penalty="l1" if weight else "none",
            penalty_weight=weight,
            penalty_reduction="sum",
            penalty_includes_padding=True,
        )
        return cls(**{**read, **overrides})

    def to_reference(self) -> dict[str, Any]:
        """The `meta_swishglu_*` keys of this hypernetwork.

        Raises:
          UserError: a variant that the reference does not have.
        """
        if self.kind not in ("shared", "layerwise"):
            raise UserError(
                f"hypernet.kind {self.kind!r} has no form in the reference's checkpoints; only "
                "'shared' and 'layerwise' can be written as megan-torch."
            )
        lacks = []
        if self.start_layer:
            lacks.append(f"start_layer={self.start_layer}")
        if self.condition_norm != "none":
            lacks.append(f"condition_norm={self.condition_norm!r}")
        if self.width and self.heads > 1:
            lacks.append(f"heads={self.heads} with a reduced width")
        if self.width and self.beta_layers > 1:
            lacks.append(f"beta_layers={self.beta_layers} with a reduced width")
        prefix = "meta_swishglu_"
        fields = {
            f"{prefix}shared_hyper": int(self.kind == "shared"),
            f"{prefix}beta_hidden_dim": self.width,
            f"{prefix}attn_head_num": self.heads,
            f"{prefix}attn_key": "x",
            f"{prefix}mlp_bias": int(self.bias),
            f"{prefix}beta_num_layer": self.beta_layers,
            f"{prefix}l2_lambda": self.penalty_weight if self.penalty == "l1" else 0.0,
        }
        if lacks:
            # Readable by this package; the reference's own code would compute something else.
            fields["megan_jax_hypernet"] = dataclasses.asdict(self)
        return fields
