"""One row of evaluation results per condition type and split, and what the rows say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from megan_jax.errors import UserError
from megan_jax.evaluation.statistics import (
    RESAMPLES,
    Interval,
    paired_interval,
    pooled_interval,
    weighted_mean,
)

POOLED = "pooled"
SPLITS = ("seen", "unseen")
# With fewer examples the bootstrap has too few different resamples to be taken at its word.
FEWEST_EXAMPLES = 8


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers in [0, 1] over `examples` examples that have an answer to check."""

    matched: float
    mismatched: float | None = None
    base: float | None = None
    examples: int = 0


@dataclass(frozen=True)
class ExampleLosses:
    """Per-example losses of one condition type in one split; every array is [n].

    base, matched, mismatched, none: summed response-token losses in nats, of the base model and of
        the trained one under the example's condition, another of the same type, and none; the
        last two are None where they were not measured.
    tokens: numbers of response tokens.
    """

    condition_type: str
    split: str
    tokens: ArrayLike
    base: ArrayLike
    matched: ArrayLike
    mismatched: ArrayLike | None = None
    none: ArrayLike | None = None
    accuracy: Accuracy | None = None
    failed: int = 0


@dataclass(frozen=True)
class ResultRow:
    """One row of the table. Losses are means per response token in nats.

    condition_type: its name, or `POOLED`.
    split: "seen" or "unseen" conditions, or the name of what else was evaluated.
    difference: matched - mismatched, negative where the right condition helps.
    base_difference: matched - base, negative where the trained model is below the base model.
    failed: examples that could not be scored or have no mismatched condition, where others have;
        they are in no other number of the row.
    """

    condition_type: str
    split: str
    examples: int
    tokens: int
    base: float
    matched: float
    mismatched: float | None = None
    none: float | None = None
    difference: Interval | None = None
    base_difference: Interval | None = None
    accuracy: Accuracy | None = None
    failed: int = 0

    @property
    def name(self) -> str:
        """The row's name for readers."""
        return "all types, pooled" if self.condition_type == POOLED else self.condition_type

    def holds(self) -> bool:
        """Whether matched is below mismatched with an interval clear of zero."""
        return (
            self.difference is not None
            and self.examples >= FEWEST_EXAMPLES
            and self.difference.high < 0
        )

    def verdict(self) -> str:
        """What the row shows, in plain words, also where the effect does not hold."""
        if self.difference is None:
            return "not measured: no mismatched condition to compare with"
        if self.examples < FEWEST_EXAMPLES:
            return f"too few examples to tell ({self.examples})"
        if self.difference.low > 0:
            return "reversed: mismatched beats matching"
        if self.difference.high >= 0:
            return "no clear difference (interval contains 0)"
        if self.matched < self.base:
            return "holds: matching beats mismatched"
        return "matching beats mismatched, but not the base model"


def result_rows(
    groups: Sequence[ExampleLosses], *, seed: int = 0, resamples: int = RESAMPLES
) -> list[ResultRow]:
    """The table of results, split by split: a row per group, then the pooled row.

    Intervals are paired bootstraps over examples; pooled rows weigh by tokens and keep the types as
    strata. A split with one type has no pooled row. Raises `UserError` for arrays of different
    length and whatever `statistics.pooled_interval` raises.
    """
    rows = []
    for split in dict.fromkeys(group.split for group in groups):
        members = [group for group in groups if group.split == split]
        rows += [_row([group], group.condition_type, seed, resamples) for group in members]
        # A type without another condition has no pairs; the pooled row is about those that have.
        pooled = [group for group in members if group.mismatched is not None] or members
        if len(pooled) > 1:
            rows.append(_row(pooled, POOLED, seed, resamples))
    return rows


def _row(
    groups: Sequence[ExampleLosses], condition_type: str, seed: int, resamples: int
) -> ResultRow:
    tokens = np.concatenate([np.asarray(group.tokens, np.float64) for group in groups])

    def mean(name: str) -> float | None:
        parts = [getattr(group, name) for group in groups]
        if any(part is None for part in parts):
            return None
        try:
            return weighted_mean(np.concatenate([np.asarray(part) for part in parts]), tokens)
        except UserError as error:
            raise UserError(f"{groups[0].split} {condition_type}, {name}: {error}") from None

    base, matched = mean("base"), mean("matched")
    assert base is not None and matched is not None

    def interval(other: str) -> Interval | None:
        if any(getattr(group, other) is None for group in groups):
            return None
        triples = [(group.matched, getattr(group, other), group.tokens) for group in groups]
        if len(triples) == 1:
            return paired_interval(*triples[0], seed=seed, resamples=resamples)
        return pooled_interval(triples, seed=seed, resamples=resamples)

    return ResultRow(
        condition_type=condition_type,
        split=groups[0].split,
        examples=len(tokens),
        tokens=int(tokens.sum()),
        base=base,
        matched=matched,
        mismatched=mean("mismatched"),
        none=mean("none"),
        difference=interval("mismatched"),
        base_difference=interval("base"),
        accuracy=_pooled_accuracy([group.accuracy for group in groups if group.accuracy]),
        failed=sum(group.failed for group in groups),
    )


def _pooled_accuracy(parts: Sequence[Accuracy]) -> Accuracy | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    counts = np.array([part.examples for part in parts], dtype=np.float64)
    if not counts.sum():
        return None

    def share(name: str) -> float | None:
        shares = [getattr(part, name) for part in parts]
        return None if None in shares else float(np.dot(shares, counts) / counts.sum())

    matched = share("matched")
    assert matched is not None
    return Accuracy(matched, share("mismatched"), share("base"), int(counts.sum()))


@dataclass(frozen=True)
class Finding:
    """The main result: one headline, the sentences below it, and whether it is what was hoped."""

    headline: str
    sentences: tuple[str, ...]
    holds: bool


def _listing(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _span(interval: Interval) -> str:
    return f"{signed(interval.mean)} (95 % interval {signed(interval.low)} to " + (
        f"{signed(interval.high)})"
    )


def signed(value: float) -> str:
    """A number with three decimals, its sign always written, with a real minus sign."""
    return f"{value:+.3f}".replace("-", "\u2212")


def split_name(split: str) -> str:
    """A split's name for readers: "seen conditions", or the name of a file as it is."""
    return f"{split} conditions" if split in SPLITS else split


def _types_and_whole(
    rows: Sequence[ResultRow], split: str
) -> tuple[list[ResultRow], ResultRow | None]:
    """A split's rows of single types, and its pooled row (with one type: that type's row)."""
    own = [row for row in rows if row.split == split and row.condition_type != POOLED]
    pooled = [row for row in rows if row.split == split and row.condition_type == POOLED]
    return own, pooled[0] if pooled else own[0] if len(own) == 1 else None


def _paragraph(rows: Sequence[ResultRow], split: str) -> str:
    """What holds on a split: the pooled difference, the single types, and the base model."""
    own, whole = _types_and_whole(rows, split)
    name = split_name(split)
    if split in SPLITS:  # the name of a file stays as it is
        name = name[0].upper() + name[1:]
    if whole is None or whole.difference is None:
        losses = [f"{row.name} {row.matched:.3f} (base model {row.base:.3f})" for row in own]
        return f"{name}: response loss {_listing(losses)}; no mismatched condition was measured."
    label = f"pooled over {len(own)} types" if len(own) > 1 else f"{whole.name} only"
    sentences = [
        f"{name}, {label}: matched minus mismatched is {_span(whole.difference)} nats per token."
    ]
    holding = [row.name for row in own if row.holds()]
    others: dict[str, list[str]] = {}
    for row in own:
        if not row.holds():
            others.setdefault(row.verdict(), []).append(row.name)
    words = [f"It holds for {_listing(holding)}" if holding else "It holds for no single type"]
    words += [f"{_listing(names)}: {verdict}" for verdict, names in others.items()]
    sentences.append("; ".join(words) + ".")
    clear = whole.base_difference is None or whole.base_difference.excludes_zero()
    place = "below" if whole.matched < whole.base else "not below"
    sentences.append(
        f"Under the matching condition the response loss is {whole.matched:.3f}, {place} the "
        f"base model's {whole.base:.3f}" + ("." if clear else " (interval contains 0).")
    )
    return " ".join(sentences)


def finding(rows: Sequence[ResultRow]) -> Finding:
    """What the rows say about the method, computed from the numbers alone.

    It holds where matched is below mismatched with an interval clear of zero, pooled over the types
    and for two types at least, and below the base model's loss. Judged on seen conditions; where
    these were not evaluated, on the first split there is.
    """
    splits = list(dict.fromkeys(row.split for row in rows))
    if not splits:
        return Finding("Nothing was evaluated.", (), False)
    sentences = tuple(_paragraph(rows, split) for split in splits)
    main = "seen" if "seen" in splits else splits[0]
    place = f"on {split_name(main)}"
    own, whole = _types_and_whole(rows, main)
    if whole is None or whole.difference is None:
        return Finding(f"No comparison with mismatched conditions {place}.", sentences, False)
    several = len(own) > 1
    holding = sum(row.holds() for row in own)
    below = whole.matched < whole.base and (
        whole.base_difference is None or whole.base_difference.high < 0
    )
    if whole.examples < FEWEST_EXAMPLES:
        headline = f"There are too few examples to tell whether the condition matters {place}."
    elif not whole.holds():
        headline = f"The model does not show that it reads the condition {place}."
    elif several and holding < 2:
        headline = (
            f"The condition steers the model {place} when all types are pooled, but of the single "
            f"types it is clear for {'one only' if holding else 'none'}."
        )
    elif not below:
        headline = (
            f"The model reads the condition {place}, but its response loss is not clearly below "
            "the base model's."
        )
    elif several:
        headline = (
            f"The condition steers the model: {place} the matching one gives the lower loss, "
            f"pooled and for {holding} of {len(own)} types."
        )
    else:
        headline = f"The condition steers the model {place} of type {whole.name}."
    return Finding(headline, sentences, whole.holds() and below and (holding >= 2 or not several))


def perplexity(loss: float | None) -> float | None:
    """``exp(loss)``, or None without a loss; infinite where it overflows."""
    if loss is None:
        return None
    return math.exp(loss) if loss < 700 else math.inf


def row_record(row: ResultRow) -> Mapping[str, object]:
    """A row as plain JSON values, with perplexities and the verdict."""

    def interval(value: Interval | None) -> dict[str, float] | None:
        return None if value is None else dict(vars(value))

    losses = {"base": row.base, "matched": row.matched}
    losses |= {"mismatched": row.mismatched, "none": row.none}
    return {
        "condition_type": row.condition_type,
        "split": row.split,
        "examples": row.examples,
        "failed": row.failed,
        "tokens": row.tokens,
        "loss": losses,
        "perplexity": {name: perplexity(loss) for name, loss in losses.items()},
        "matched_minus_mismatched": interval(row.difference),
        "matched_minus_base": interval(row.base_difference),
        "accuracy": None if row.accuracy is None else dict(vars(row.accuracy)),
        "holds": row.holds(),
        "verdict": row.verdict(),
    }
