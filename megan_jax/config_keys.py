"""Every key of every experiment: its default, its meaning, and what it may be."""

from __future__ import annotations

import dataclasses
from typing import Any

from megan_jax.hypernet import config as hypernet
from megan_jax.parallel.axes import MESH_AXES, AxisRules

CONDITION_TYPES = ("task", "domain", "persona", "style", "sentiment")
CONDITION_MODES = ("matched", "mismatched", "none")


@dataclasses.dataclass(frozen=True)
class Key:
    """One configuration key.

    Attributes:
      default: its value where an experiment says nothing; its type is the key's type.
      help: one line.
      choices: the allowed values (of a tuple: of its elements), or () for any.
      least, most: inclusive bounds of a number (of a tuple: of its elements), or None.
      element: the type of a tuple's elements, `str` or `float`.
    """

    default: Any
    help: str
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    element: type = str


_GENERAL = {
    "seed": Key(0, "seeds initialisation, order, packing, wordings and bootstrap", least=0),
    "model": Key(
        "smollm2-135m-instruct",
        "the base model: the embedded one, `tiny-random`, or a path (Hugging Face, GGUF, MeGan)",
    ),
    "hypernet_from": Key("", "start the hypernetwork from this run folder or MeGan checkpoint"),
    "dtype": Key(
        "auto",
        "base weights and activations; auto: bfloat16 on accelerators, float32 on CPU",
        ("auto", "float32", "bfloat16"),
    ),
}

_HYPERNET = {
    "kind": Key("shared", "which hypernetwork generates β", hypernet.KINDS),
    "width": Key(64, "R, the reduced attention width; 0: the model width", least=0),
    "heads": Key(1, "heads of the attention to the condition", least=1),
    "bias": Key(False, "biases in the β layers"),
    "beta_layers": Key(1, "linear maps with tanh that end in β", least=1),
    "start_layer": Key(0, "the first gated layer", least=0),
    "init": Key("fan_in", "initialisation", hypernet.INITS),
    "condition_norm": Key("rms", "scaling of condition embeddings", hypernet.CONDITION_NORMS),
    "condition_length": Key(64, "C, tokens of one condition, training and evaluation", least=1),
    "penalty": Key("none", "penalty on β in the loss", hypernet.PENALTIES),
    "penalty_weight": Key(0.0, "λ, the weight of the penalty", least=0),
    "penalty_reduction": Key(
        "mean", "over gated tokens, layers and channels", hypernet.PENALTY_REDUCTIONS
    ),
}

_COMPAT = {
    "attend_condition_padding": Key(
        False, "pad training conditions to condition_length and attend to the padding (Q3)"
    ),
    "eval_condition_untruncated": Key(False, "evaluate with whole, unpadded conditions (Q3)"),
    "freeze_layer_embeddings": Key(False, "leave layer embeddings at their random start (Q2)"),
    "divided_activation": Key(False, "compute silu((1+β)g)/(1+β) (Q15)"),
    "reduced_heads": Key(False, "one attention head whenever width > 0 (Q5)"),
    "penalty_includes_padding": Key(False, "penalise β of padding positions too (Q12)"),
    "wording": Key(
        "default",
        "how instruction expressions are chosen and worded (Q20 to Q22)",
        ("default", "reference_train", "reference_eval"),
    ),
}

_DATA = {
    "train": Key(("suite",), "training data: `suite` or paths of messages JSONL files"),
    "eval": Key(
        (),
        "evaluation data in the loop: `suite:SPLIT` or paths of messages JSONL files; empty: the "
        "suite's seen_validation if training uses the suite",
    ),
    "types": Key((), "condition types to use; empty: all", CONDITION_TYPES),
    "conditions": Key(
        (), "condition keys of the suite to use, but in unseen splits; a type without any keeps all"
    ),
    "condition_type": Key(
        "", "condition type of JSONL rows; empty: inferred", ("", *CONDITION_TYPES)
    ),
    "limit_per_type": Key(0, "training examples per condition type; 0: all", least=0),
    "type_weights": Key(
        (), "sampling weights of `types`, in their order; empty: by size", least=0, element=float
    ),
    "placement": Key("none", "where the prompt repeats the condition", ("none", "system", "query")),
    "expression": Key("raw", "what the hypernetwork reads", ("raw", "with_instruction")),
    "system_prompt": Key("", "a system message for every example; empty: none"),
    "loss_on": Key("all", "which assistant turns carry the loss", ("all", "last")),
    "row_length": Key(256, "T, tokens of a row", least=8),
    "condition_capacity": Key(192, "condition tokens that a row has room for", least=1),
    "packing": Key(True, "several examples to a row; otherwise one"),
    "condition_dropout": Key(0.0, "share of training examples without condition", least=0, most=1),
    "on_error": Key("error", "a bad JSONL row: stop, or count and quarantine", ("error", "skip")),
    "on_long": Key("truncate", "an example longer than a row", ("truncate", "drop", "error")),
    "cache_dir": Key("", "tokenised data; empty: MEGAN_CACHE or ~/.cache/megan_jax"),
}

_TOKENIZER = {
    "path": Key("", "tokenizer file or folder; empty: the model's own"),
    "chat_template": Key(
        "auto", "auto: the tokenizer's own; llama3, llama2, chatml, or the path of a Jinja2 file"
    ),
    "date": Key("2024-07-26", "the date that chat templates print, ISO"),
}

_TRAIN = {
    "steps": Key(1000, "optimizer steps", least=1),
    "batch_size": Key(8, "rows of the global batch", least=1),
    "microbatches": Key(1, "parts in which a batch is run, gradients summed", least=1),
    "trainable": Key(("hyper/.*",), "regular expressions on parameter paths; the rest is frozen"),
    "remat": Key("none", "recompute layers in the backward pass", ("none", "full")),
    "scan_layers": Key(True, "one compiled layer body, or all layers unrolled"),
    "loss_chunk": Key(256, "labelled tokens whose logits exist at a time", least=1),
    "log_every": Key(10, "steps between lines of metrics", least=1),
    "eval_every": Key(0, "steps between evaluations; 0: none", least=0),
    "checkpoint_every": Key(
        200, "steps between checkpoints; the last step is always kept", least=1
    ),
    "keep_checkpoints": Key(2, "newest checkpoints kept", least=1),
    "tensorboard": Key(True, "also write TensorBoard event files"),
}

_OPTIMIZER = {
    "learning_rate": Key(1e-3, "peak learning rate of AdamW", least=0),
    "schedule": Key("cosine", "after the warm-up", ("cosine", "constant")),
    "warmup_ratio": Key(0.1, "share of the steps that warm up linearly", least=0, most=1),
    "weight_decay": Key(0.01, "decoupled, on all trainable parameters but biases", least=0),
    "b1": Key(0.9, "decay of the first moment", least=0, most=1),
    "b2": Key(0.999, "decay of the second moment", least=0, most=1),
    "eps": Key(1e-8, "added to the root of the second moment", least=0),
    "clip_norm": Key(1.0, "global gradient norm; 0: no clipping", least=0),
}

_EVAL = {
    "splits": Key(("seen_test", "unseen_test"), "suite splits that `evaluate` and the report use"),
    "limit_per_type": Key(0, "examples per condition type and split; 0: all", least=0),
    "batch_size": Key(8, "rows of a batch", least=1),
    "modes": Key(
        CONDITION_MODES,
        "conditions under which the response loss is measured",
        CONDITION_MODES,
    ),
    "answers": Key(True, "also generate and compare where examples have short answers"),
    "answer_limit": Key(0, "answers generated per condition type and split; 0: all", least=0),
    "answer_tokens": Key(24, "tokens of a generated answer", least=1),
    "resamples": Key(2000, "bootstrap resamples", least=100),
    "choice_mode": Key(
        "exact",
        "how answers are compared; the last four are the reference's (Q28)",
        ("exact", "option_aware", "include", "case_include", "strict", "case_strict"),
    ),
}

_REPORT = {
    "enabled": Key(False, "write report.html after training"),
    "samples": Key(4, "prompts answered under several conditions", least=0),
    "sample_tokens": Key(40, "tokens of each answer", least=1),
    "heatmap_conditions": Key(4, "conditions per type in the β maps", least=0),
}

_MESH = {
    axis: Key(-1 if axis == "fsdp" else 1, f"size of mesh axis `{axis}`; -1: the rest", least=-1)
    for axis in MESH_AXES
}

SECTIONS: dict[str, dict[str, Key]] = {
    "": _GENERAL,
    "hypernet": _HYPERNET,
    "compat": _COMPAT,
    "data": _DATA,
    "tokenizer": _TOKENIZER,
    "train": _TRAIN,
    "optimizer": _OPTIMIZER,
    "eval": _EVAL,
    "report": _REPORT,
    "mesh": _MESH,
    "mesh.rules": {
        field.name: Key(
            field.default
            if isinstance(field.default, tuple)
            else (field.default,)
            if field.default
            else (),
            f"mesh axes of logical axis `{field.name}`",
            MESH_AXES,
        )
        for field in dataclasses.fields(AxisRules)
    },
}


def all_keys() -> dict[str, Key]:
    """Every key under its dotted name."""
    return {
        f"{section}.{name}" if section else name: key
        for section, keys in SECTIONS.items()
        for name, key in keys.items()
    }
