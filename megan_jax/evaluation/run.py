"""Evaluates a model on groups of examples: losses under conditions, answers, one table."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from megan_jax.data.batch import Batch
from megan_jax.data.example import Example
from megan_jax.data.experiment import SUITE, evaluation_source, read_examples
from megan_jax.data.tokenizers import Tokenizer
from megan_jax.errors import UserError
from megan_jax.evaluation.answers import accuracy, generate_answers, has_answer
from megan_jax.evaluation.response_loss import response_losses
from megan_jax.evaluation.results import (
    ExampleLosses,
    ResultRow,
    finding,
    result_rows,
    row_record,
)
from megan_jax.models.model import Model, Params
from megan_jax.parallel.axes import round_up_rows

# What the suite's splits are called in tables.
SPLIT_NAMES = {
    "seen_validation": "seen",
    "seen_test": "seen",
    "unseen_test": "unseen",
    "train": "train",
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      rows: the table.
      groups: the losses of every example behind it.
      tokens: tokens that the model read, generation included.
      dropped: examples that were left out: too long for a row, or without a response.
      notes: a line for each kind of example that was cut or left out.
    """

    rows: list[ResultRow]
    groups: list[ExampleLosses]
    tokens: int
    dropped: int
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """The main finding and the table as plain JSON values."""
        return {
            "finding": dataclasses.asdict(finding(self.rows)),
            "rows": [row_record(row) for row in self.rows],
            "tokens": self.tokens,
            "dropped": self.dropped,
            "notes": list(self.notes),
        }


def evaluate_model(
    model: Model,
    params: Params,
    base_params: Params | None,
    tokenizer: Tokenizer,
    config: ConfigDict,
    splits: Mapping[str, Sequence[Example]],
    *,
    put: Callable[[Batch], Batch] = lambda batch: batch,
    answers: bool = True,
    on_tokens: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measures a model on one or several splits.

    Args:
      model, params: what is measured.
      base_params: the base model's parameters if training changed the target network; None if
        not, when the model without a condition *is* the base model.
      tokenizer, config: how examples become tokens; `eval.*` says what is measured.
      splits: name (`seen`, `unseen`, …) and examples.
      put: places a batch on the device mesh.
      answers: also generate short answers where examples have them.
      on_tokens: called with the number of tokens of each batch.
    """
    conditions = [mode for mode in config.eval.modes if mode != "matched"]
    if model.hypernet is None:
        conditions = []
    plain = Model(model.config, None, model.precision)
    groups, read, dropped = [], 0, 0
    notes: list[str] = []
    for split, examples in splits.items():
        source = evaluation_source(
            examples, tokenizer, config, round_up_rows(config.eval.batch_size)
        )
        dropped += len(examples) - len(source.admission.numbers)
        notes += [f"{split}: {line}" for line in source.admission.report(config.data.row_length)]
        wanted = list(dict.fromkeys(["matched", *conditions, "none"]))
        if not source.has_mismatched and "mismatched" in wanted:
            wanted.remove("mismatched")
        if model.hypernet is None:
            wanted = ["none"]
        losses = response_losses(model, params, source, wanted, put, on_tokens)
        read += sum(part.processed for part in losses.values())
        base = losses["none"]
        if base_params is not None:
            base = response_losses(plain, base_params, source, ["none"], put, on_tokens)["none"]
            read += base.processed
        matched = losses.get("matched", losses["none"])
        types = dict.fromkeys(example.condition_type for example in examples)
        for condition_type in types:
            members = np.array(
                [
                    i
                    for i, example in enumerate(examples)
                    if example.condition_type == condition_type and matched.tokens[i] > 0
                ],
                np.int64,
            )
            other, unpaired = losses.get("mismatched"), 0
            if other is not None:
                # Only pairs are compared, if the type has any.
                paired = members[other.tokens[members] > 0]
                if len(paired):
                    unpaired = len(members) - len(paired)
                    members = paired
                else:
                    other = None
            if len(members) == 0:
                continue
            checked = [examples[i] for i in members if has_answer(examples[i])]
            limit = config.eval.answer_limit
            found = None
            if answers and checked:
                checked = checked[:limit] if limit else checked
                texts: dict[str, list[str | None]] = {}
                parts = [(plain, params if base_params is None else base_params, ["base"])]
                if model.hypernet is not None:
                    kinds = ["matched"] if other is None else ["matched", "mismatched"]
                    parts.append((model, params, kinds))
                for part, own, wanted_kinds in parts:
                    made = generate_answers(part, own, checked, tokenizer, config, wanted_kinds)
                    texts |= made.texts
                    read += made.tokens
                texts.setdefault("matched", texts["base"])
                found = accuracy(checked, texts, config.eval.choice_mode)
            groups.append(
                ExampleLosses(
                    condition_type=condition_type,
                    split=split,
                    tokens=matched.tokens[members],
                    base=base.nll[members],
                    matched=matched.nll[members],
                    mismatched=None if other is None else other.nll[members],
                    none=losses["none"].nll[members],
                    accuracy=found,
                    failed=unpaired,
                )
            )
    rows = result_rows(groups, seed=config.seed, resamples=config.eval.resamples)
    return Evaluation(rows, groups, read, dropped, tuple(notes))


def _sources(config: ConfigDict, splits: Sequence[str]) -> tuple[str, ...]:
    if any(source.partition(":")[0] == SUITE for source in config.data.train):
        return tuple(f"{SUITE}:{split}" for split in splits)
    if not config.data.eval:
        raise UserError(
            f"{', '.join(config.data.train)} is no evaluation data. Name some: --data FILE.jsonl "
            "of `evaluate`, or --config.data.eval=FILE.jsonl in training."
        )
    return tuple(config.data.eval)


def loop_sources(config: ConfigDict) -> tuple[str, ...]:
    """What evaluation in the loop reads: `data.eval`, or what it stands for when it is empty.

    Raises:
      UserError: a model of a user's own data without evaluation data.
    """
    return tuple(config.data.eval) or _sources(config, ["seen_validation"])


def final_sources(config: ConfigDict) -> tuple[str, ...]:
    """What a trained model is measured on: the suite's `eval.splits`, or the user's `data.eval`.

    Raises:
      UserError: a model of a user's own data without evaluation data.
    """
    return _sources(config, config.eval.splits)


def read_splits(config: ConfigDict, sources: Sequence[str]) -> dict[str, list[Example]]:
    """Reads evaluation data, of each condition type the first `eval.limit_per_type` examples.

    Args:
      config: see `megan_jax.data.experiment.read_examples`.
      sources: `suite:SPLIT` or JSONL paths, which become splits of their file names.

    Raises:
      UserError: see `read_examples`.
    """
    splits: dict[str, list[Example]] = {}
    names = [Path(source).name for source in sources]
    for source, name in zip(sources, names, strict=True):
        if source.startswith(f"{SUITE}:"):
            split = source.partition(":")[2]
            name = SPLIT_NAMES.get(split, split)
        elif names.count(name) > 1:
            name = source
        found = read_examples([source], config, limit_per_type=config.eval.limit_per_type)
        splits.setdefault(name, []).extend(found)
    return splits


def terminal_meter(total: str, stream=sys.stderr) -> Callable[[int], None]:
    """Counts evaluated tokens on a terminal; silent elsewhere."""
    seen = 0

    def update(tokens: int) -> None:
        nonlocal seen
        seen += tokens
        if stream.isatty():
            stream.write(f"\r{total}: {seen:,} tokens")
            stream.flush()

    return update
