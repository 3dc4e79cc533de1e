"""The table of evaluation results on a terminal, and the same as plain text elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TextIO

from megan_jax.evaluation.results import POOLED, ResultRow, finding, perplexity, signed

_DIFFERENCE = "matched \u2212 mismatched"
COLUMNS = (
    "condition", "split", "n", "tokens", "base", "matched", "mismatched", "none",
    "ppl", _DIFFERENCE, "accuracy", "verdict",
)  # fmt: skip
_LEFT = {"condition", "split", "verdict"}
# What a narrow terminal goes without, first to last; the plain table and the files have it all.
_DISPENSABLE = ("tokens", "ppl", "none", "accuracy", "n")
# Widths down to which a wrapping column may shrink before another column is left out.
_NARROWEST = {_DIFFERENCE: 16, "verdict": 12}


def _number(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "\u2013" if value is None else f"{100 * value:.0f}"


def cells(row: ResultRow) -> tuple[str, ...]:
    """The texts of one row, in the order of `COLUMNS`; accuracy is matched/mismatched/base in %."""
    interval, accuracy = row.difference, row.accuracy
    shares = (
        "\u2013"
        if accuracy is None
        else "/".join(_percent(x) for x in (accuracy.matched, accuracy.mismatched, accuracy.base))
    )
    return (
        row.condition_type,
        row.split,
        f"{row.examples:,}" + (f" (+{row.failed} left out)" if row.failed else ""),
        f"{row.tokens:,}",
        _number(row.base),
        _number(row.matched),
        _number(row.mismatched),
        _number(row.none),
        f"{perplexity(row.matched):.2f}",
        "\u2013"
        if interval is None
        else f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]",
        shares,
        row.verdict(),
    )


def plain_table(rows: Sequence[ResultRow]) -> str:
    """The results as aligned plain text, the main finding below."""
    table = [COLUMNS, *map(cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(
            text.ljust(width) if name in _LEFT else text.rjust(width)
            for name, text, width in zip(COLUMNS, line, widths, strict=True)
        ).rstrip()
        for line in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    result = finding(rows)
    return "\n".join([*lines, "", result.headline, *result.sentences]) + "\n"


def _fitting(texts: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """The columns that fit into `width` characters, the dispensable ones left out as needed."""

    def needed(name: str) -> int:
        i = COLUMNS.index(name)
        widest = max(len(text) for text in (name, *(line[i] for line in texts)))
        return min(widest, _NARROWEST.get(name, widest)) + 2

    names = list(COLUMNS)
    for name in _DISPENSABLE:
        if sum(map(needed, names)) > width:
            names.remove(name)
    return names


def print_results(rows: Sequence[ResultRow], file: TextIO | None = None) -> None:
    """Writes the results to `file` (standard output): a rich table on a terminal, else plain."""
    file = file or sys.stdout
    if not file.isatty():
        encoding = file.encoding or "utf-8"
        file.write(plain_table(rows).encode(encoding, "replace").decode(encoding))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file)
    # The verdict's first words are enough here: the finding below the table says the rest.
    texts = [(*cells(row)[:-1], re.split(r":| \(", row.verdict())[0]) for row in rows]
    names = _fitting(texts, console.width)
    table = Table(
        title="Response loss, nats per token",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in names:
        table.add_column(
            name,
            justify="left" if name in _LEFT else "right",
            no_wrap=name not in {"verdict", _DIFFERENCE},
        )
    split = None
    for row, line in zip(rows, texts, strict=True):
        if split is not None and row.split != split:
            table.add_section()
        split = row.split
        chosen = [Text(line[COLUMNS.index(name)]) for name in names]
        chosen[-1].stylize("green" if row.holds() else "yellow")
        table.add_row(*chosen, style="bold" if row.condition_type == POOLED else None)
    console.print(table)
    if any(row.accuracy for row in rows) and "accuracy" in names:
        console.print(Text("accuracy: matched/mismatched/base, %\n", style="dim"))
    result = finding(rows)
    console.print(Text(result.headline, style="bold"))
    for sentence in result.sentences:
        console.print(Text(sentence))
