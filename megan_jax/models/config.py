"""The shape of a Llama-family target network, read from and written to Hugging Face spelling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from megan_jax.errors import UserError, nearest

ROPE_KINDS = ("default", "linear", "llama3", "dynamic")
# Positive integers; a config.json must have the first five.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def _check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config.json: {name} must be a positive integer, got {value!r}.")


def _check_number(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise UserError(f"config.json: {name} must be a positive number, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the pre-training length.

    Attributes:
      kind: one of `ROPE_KINDS`.
      factor: the stretch of positions (`linear`, `dynamic`) or of low frequencies (`llama3`).
      low_freq_factor, high_freq_factor: borders of the `llama3` blend, in wavelengths per
        original context.
      original_max_position_embeddings: the pre-training context length in tokens (`llama3`).
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            _check_number(f"rope {name}", getattr(self, name))
        _check_size("rope original_max_position_embeddings", self.original_max_position_embeddings)
        if self.kind == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise UserError(
                f"config.json: rope low_freq_factor ({self.low_freq_factor}) must be below "
                f"high_freq_factor ({self.high_freq_factor})."
            )

    @classmethod
    def from_hf(cls, fields: Mapping[str, Any] | None) -> RopeScaling:
        """Reads `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5)."""
        if not fields:
            return cls()
        if not isinstance(fields, Mapping):
            raise UserError(f"config.json: rope_scaling must be an object, got {fields!r}.")
        kind = fields.get("rope_type", fields.get("type", "default"))
        if kind not in ROPE_KINDS:
            raise UserError(
                f"config.json: rope type {kind!r} is not supported (supported: "
                f"{', '.join(ROPE_KINDS)}).{nearest(str(kind), ROPE_KINDS)}"
            )
        if kind == "default":
            return cls()
        wanted = ["factor"]
        if kind == "llama3":
            wanted += ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
        missing = [key for key in wanted if key not in fields]
        if missing:
            raise UserError(f"config.json: rope type {kind!r} needs {', '.join(missing)}.")
        return cls(kind=kind, **{key: fields[key] for key in wanted})

    def to_hf(self) -> dict[str, Any] | None:
        """The `rope_scaling` dictionary of transformers 4; None for `default`."""
        if self.kind == "default":
            return None
        fields: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind == "llama3":
            fields["low_freq_factor"] = self.low_freq_factor
            fields["high_freq_factor"] = self.high_freq_factor
            fields["original_max_position_embeddings"] = self.original_max_position_embeddings
        return fields


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """A Llama-family decoder; fields are named as in Hugging Face's `LlamaConfig`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in SIZES:
            _check_size(name, getattr(self, name))
        for name in ("rms_norm_eps", "rope_theta"):
            _check_number(name, getattr(self, name))
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"config.json: num_attention_heads ({self.num_attention_heads}) is not a multiple "
                f"of num_key_value_heads ({self.num_key_value_heads})."
            )
        if self.head_dim % 2:
            raise UserError(f"config.json: head_dim must be even, got {self.head_dim}.")

    @classmethod
    def from_hf(cls, fields: Mapping[str, Any]) -> LlamaConfig:
        """Reads a `config.json` in the spelling of transformers 4 or 5.

        Raises:
          UserError: another architecture, a missing size, or an option that Llama does not have.
        """
        model_type = fields.get("model_type", "llama")
        if model_type != "llama":
            raise UserError(
                f"config.json: model_type is {model_type!r}; the Llama family ('llama') is what "
                "this package reads."
            )
        activation = fields.get("hidden_act", "silu")
        if activation not in ("silu", "swish"):
            raise UserError(
                f"config.json: hidden_act is {activation!r}; the β gate is defined for SwiGLU "
                "blocks ('silu') only."
            )
        needed = SIZES[:5]
        missing = [name for name in needed if name not in fields]
        if missing:
            raise UserError(f"config.json: missing {', '.join(missing)}.")
        for name in needed:
            _check_size(name, fields[name])

        def given(name: str, default: Any) -> Any:
            value = fields.get(name)
            return default if value is None else value

        def number(name: str, value: Any) -> float:
            _check_number(name, value)
            return float(value)

        rope = fields.get("rope_parameters") or fields.get("rope_scaling")
        scaling = RopeScaling.from_hf(rope)
        theta = given("rope_theta", (rope or {}).get("rope_theta", 10000.0))
        heads = fields["num_attention_heads"]
        eos = given("eos_token_id", ())
        eos = tuple(eos) if isinstance(eos, list | tuple) else (eos,)
        for token in (*eos, given("bos_token_id", 0), given("pad_token_id", 0)):
            if not isinstance(token, int):
                raise UserError(f"config.json: special token id {token!r} is not an integer.")
        return cls(
            **{name: fields[name] for name in needed},
            num_key_value_heads=given("num_key_value_heads", heads),
            head_dim=given("head_dim", fields["hidden_size"] // heads),
            rms_norm_eps=number("rms_norm_eps", given("rms_norm_eps", 1e-6)),
            rope_theta=number("rope_theta", theta),
            rope_scaling=scaling,
            max_position_embeddings=given("max_position_embeddings", 2048),
            attention_bias=bool(fields.get("attention_bias", False)),
            mlp_bias=bool(fields.get("mlp_bias", False)),
            tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
            initializer_range=number("initializer_range", given("initializer_range", 0.02)),
            bos_token_id=fields.get("bos_token_id"),
            eos_token_id=eos,
            pad_token_id=fields.get("pad_token_id"),
        )

    def to_hf(self) -> dict[str, Any]:
        """A `config.json` that transformers 4 and 5 both read."""
        fields = dataclasses.asdict(self)
        fields["rope_scaling"] = self.rope_scaling.to_hf()
        eos = self.eos_token_id
        fields["eos_token_id"] = None if not eos else eos[0] if len(eos) == 1 else list(eos)
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            **fields,
        }

    @property
    def parameter_count(self) -> int:
        """Number of parameters of the target network; a tied head is counted once."""
        d, f = self.hidden_size, self.intermediate_size
        q, kv = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        layer = 2 * d * q + 2 * d * kv + 3 * d * f + 2 * d
        if self.attention_bias:
            layer += q + 2 * kv + d
        if self.mlp_bias:
            layer += 2 * f + d
        tables = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + tables + d


_LLAMA3_STOP = (128001, 128008, 128009)
_LLAMA31_ROPE = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)

PRESETS: dict[str, LlamaConfig] = {
    "smollm2-135m": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        rope_theta=100000.0,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=(2,),
        pad_token_id=2,
    ),
    "llama-2-7b": LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=(2,),
    ),
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rope_theta=500000.0,
        rope_scaling=_LLAMA31_ROPE,
        max_position_embeddings=131072,
        bos_token_id=128000,
        eos_token_id=_LLAMA3_STOP,
    ),
    "llama-3.1-70b": LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=128,
        rope_theta=500000.0,
        rope_scaling=_LLAMA31_ROPE,
        max_position_embeddings=131072,
        bos_token_id=128000,
        eos_token_id=_LLAMA3_STOP,
    ),
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        rope_theta=500000.0,
        rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        max_position_embeddings=131072,
        tie_word_embeddings=True,
        bos_token_id=128000,
        eos_token_id=_LLAMA3_STOP,
    ),
}


def tiny_random(vocab_size: int) -> LlamaConfig:
    """The shape behind `--config.model=tiny-random`: a few thousand weights, needs no download."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
