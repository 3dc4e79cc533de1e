"""Rows of results, and the words that the numbers get."""

from __future__ import annotations

import io

import numpy as np
import pytest

from megan_jax.errors import UserError
from megan_jax.evaluation.results import (
    POOLED,
    Accuracy,
    ExampleLosses,
    ResultRow,
    finding,
    result_rows,
    row_record,
    signed,
)
from megan_jax.evaluation.statistics import Interval, paired_interval
from megan_jax.evaluation.terminal import plain_table, print_results


def group(kind: str, gap: float, split: str = "seen", n: int = 40, gain: float = 0.5, **more):
    rng = np.random.default_rng(len(kind) + n)
    tokens = rng.integers(5, 40, n)
    base = rng.normal(3.0, 0.5, n)
    mismatched = base - gain + rng.normal(0, 0.05, n)
    return ExampleLosses(
        kind, split, tokens, base * tokens, (base - gain - gap) * tokens, mismatched * tokens,
        base * tokens, **more
    )  # fmt: skip


def test_rows_hold_ratios_of_sums_and_paired_intervals():
    groups = [group("task", 0.2), group("style", 0.0, n=30), group("task", 0.1, "unseen")]
    rows = result_rows(groups, seed=3)
    assert [(row.condition_type, row.split) for row in rows] == [
        ("task", "seen"),
        ("style", "seen"),
        (POOLED, "seen"),
        ("task", "unseen"),
    ]
    first, second = groups[:2]
    assert rows[0].base == pytest.approx(np.sum(first.base) / np.sum(first.tokens))
    assert rows[0].difference == paired_interval(
        first.matched, first.mismatched, first.tokens, seed=3
    )
    pooled = rows[2]
    tokens = np.sum(first.tokens) + np.sum(second.tokens)
    assert (pooled.examples, pooled.tokens) == (70, tokens)
    assert pooled.matched == pytest.approx(
        (np.sum(first.matched) + np.sum(second.matched)) / tokens
    )
    assert pooled.difference.mean == pytest.approx(pooled.matched - pooled.mismatched)
    assert pooled.base_difference.mean == pytest.approx(pooled.matched - pooled.base)


def test_shuffled_conditions_show_no_gap():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 40, 200)
    losses = rng.normal(3, 0.3, (2, 200)) * tokens
    swap = rng.random(200) < 0.5
    matched, mismatched = np.where(swap, losses[0], losses[1]), np.where(swap, losses[1], losses[0])
    (row,) = result_rows([ExampleLosses("task", "seen", tokens, losses[0], matched, mismatched)])
    assert not row.holds()
    assert row.verdict() == "no clear difference (interval contains 0)"


def test_pooled_accuracy_weighs_by_examples_and_failures_add_up():
    groups = [
        group("task", 0.2, accuracy=Accuracy(1.0, 0.5, 0.0, 30), failed=2),
        group("style", 0.2, accuracy=Accuracy(0.0, 0.5, None, 10), failed=1),
        group("domain", 0.2),
    ]
    pooled = result_rows(groups)[-1]
    assert pooled.accuracy == Accuracy(0.75, 0.5, None, 40)
    assert pooled.failed == 3


def row(low: float, high: float, *, kind="task", split="seen", examples=40, matched=2.0, base=3.0):
    return ResultRow(
        kind, split, examples, 1000, base, matched, matched - (low + high) / 2, base,
        Interval((low + high) / 2, low, high),
        Interval(matched - base, matched - base - 0.1, matched - base + 0.1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "verdict", "holds"),
    [
        (row(-0.2, -0.1), "holds: matching beats mismatched", True),
        (row(-0.2, 0.0), "no clear difference (interval contains 0)", False),
        (row(0.1, 0.2), "reversed: mismatched beats matching", False),
        (row(-0.2, -0.1, base=1.0), "matching beats mismatched, but not the base model", True),
        (row(-0.2, -0.1, examples=5), "too few examples to tell (5)", False),
        (ResultRow("task", "seen", 9, 9, 1.0, 1.0), "not measured: no mismatched condition", False),
    ],
)
def test_verdicts(made, verdict, holds):
    assert made.verdict().startswith(verdict)
    assert made.holds() is holds


GOOD, FLAT = (-0.2, -0.1), (-0.1, 0.1)


@pytest.mark.parametrize(
    ("rows", "headline", "holds"),
    [
        ([row(*GOOD), row(*GOOD, kind="style"), row(*GOOD, kind=POOLED)], "for 2 of 2 types", True),
        ([row(*GOOD), row(*FLAT, kind="style"), row(*GOOD, kind=POOLED)], "for one only", False),
        ([row(*FLAT), row(*FLAT, kind="style"), row(*GOOD, kind=POOLED)], "clear for none", False),
        ([row(*FLAT), row(*FLAT, kind="b"), row(*FLAT, kind=POOLED)], "does not show that", False),
        (
            [row(*GOOD), row(*GOOD, kind="b"), row(*GOOD, kind=POOLED, base=2.05)],
            "not clearly below the base model's",
            False,
        ),
        ([row(*GOOD)], "on seen conditions of type task", True),
        ([row(*GOOD, examples=3)], "too few examples", False),
        ([row(*GOOD, split="my.jsonl")], "steers the model on my.jsonl", True),
        ([ResultRow("task", "seen", 9, 9, 1.0, 1.0)], "No comparison with mismatched", False),
        ([], "Nothing was evaluated", False),
    ],
)  # fmt: skip
def test_finding_follows_the_numbers(rows, headline, holds):
    result = finding(rows)
    assert headline in result.headline
    assert result.holds is holds


def test_finding_names_where_it_does_not_hold():
    rows = [row(*GOOD), row(*FLAT, kind="style"), row(*GOOD, kind=POOLED)]
    rows += [row(*FLAT, split="unseen", kind="persona")]
    seen, unseen = finding(rows).sentences
    assert "It holds for task; style: no clear difference (interval contains 0)." in seen
    assert "loss is 2.000, below the base model's 3.000." in seen
    assert unseen.startswith("Unseen conditions, persona only")
    assert "It holds for no single type" in unseen


def test_rows_without_a_mismatched_condition():
    plain = group("task", 0.0)
    rows = result_rows([ExampleLosses("task", "seen", plain.tokens, plain.base, plain.base)])
    assert rows[0].difference is None and rows[0].mismatched is None
    assert "no mismatched condition was measured" in finding(rows).sentences[0]


def test_errors_say_where():
    with pytest.raises(UserError, match="seen task, base: There are 2 losses but 1 token counts"):
        result_rows([ExampleLosses("task", "seen", [1], [1.0, 2.0], [1.0], [1.0])])


def test_record_has_perplexity_and_verdict():
    record = row_record(row(*GOOD))
    assert record["perplexity"]["matched"] == pytest.approx(np.exp(2.0))
    assert record["matched_minus_mismatched"] == {
        "mean": pytest.approx(-0.15),
        "low": -0.2,
        "high": -0.1,
    }
    assert record["holds"] is True


def test_signed_writes_a_real_minus():
    assert (signed(-0.1234), signed(0.5)) == ("\u22120.123", "+0.500")


def test_plain_table_is_aligned_and_ends_in_the_finding():
    rows = result_rows(
        [group("task", 0.2, accuracy=Accuracy(0.5, 0.25, 0.0, 8)), group("style", 0)]
    )
    lines = plain_table(rows).splitlines()
    assert len({line.index("verdict") for line in lines[:1]} | {lines[2].index("holds")}) == 1
    assert "50/25/0" in lines[2]
    assert finding(rows).headline in lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_print_results_on_a_terminal_and_elsewhere(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = result_rows([group("task", 0.2), group("style", 0.1)])
    elsewhere, terminal = io.StringIO(), Terminal()
    print_results(rows, elsewhere)
    print_results(rows, terminal)
    assert elsewhere.getvalue() == plain_table(rows)
    assert POOLED in terminal.getvalue()
    assert signed(rows[0].difference.mean) in terminal.getvalue()


@pytest.mark.parametrize(
    ("width", "has", "lacks"),
    [(170, "tokens", None), (100, "none", "tokens"), (80, "verdict", "none")],
)
def test_a_narrow_terminal_drops_columns_and_cuts_none(monkeypatch, width, has, lacks):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = result_rows([group("task", 0.2), group("style", 0.1)])
    terminal = Terminal()
    print_results(rows, terminal)
    text = terminal.getvalue()
    head = text[: text.index("─")]
    assert has in head and (lacks is None or lacks not in head)
    assert "…" not in text and f"{rows[0].matched:.3f}" in text


def test_print_results_where_the_encoding_lacks_letters():
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, "ascii", write_through=True)
    print_results(result_rows([group("task", 0.2)]), ascii_only)
    assert b"?0." in raw.getvalue()


def test_a_file_keeps_its_name_in_the_finding():
    rows = [row(-0.3, -0.1, kind=kind, split="mine.jsonl") for kind in ("task", "style")]
    assert finding(rows).sentences[0].startswith("mine.jsonl")
    assert finding([row(-0.3, -0.1, split="seen")]).sentences[0].startswith("Seen conditions")
