"""Shows what the suite holds.

python -m megan_jax.data.suite --table          # sizes and unseen conditions, as in docs/data.md
python -m megan_jax.data.suite --show 5         # rows of each type
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from megan_jax.data.example import CONDITION_TYPES, Example, join_condition
from megan_jax.data.suite import SPLITS, load_suite
from megan_jax.errors import UserError


def table(seed: int = 0, data_dir: str | None = None) -> str:
    """Returns the sizes of all splits and the unseen conditions, as Markdown."""
    lines = [
        "| type | " + " | ".join(SPLITS) + " | seen conditions | unseen conditions |",
        "|---" * (len(SPLITS) + 3) + "|",
    ]
    notes = []
    for kind in CONDITION_TYPES:
        splits = {split: load_suite(split, (kind,), data_dir, seed) for split in SPLITS}
        seen = _names(kind, splits["train"])
        unseen = _names(kind, splits["unseen_test"])
        sizes = " | ".join(str(len(splits[split])) for split in SPLITS)
        lines.append(f"| {kind} | {sizes} | {len(seen)} | {len(unseen)} |")
        notes.append(f"* unseen {kind}: {'; '.join(unseen)}")
    return "\n".join([*lines, "", *notes])


def _names(kind: str, examples: Sequence[Example]) -> list[str]:
    # What is unseen of a sentiment is the wording, not the sentiment.
    if kind == "sentiment":
        return sorted({f"{e.condition_text!r} ({e.key})" for e in examples})
    return sorted({e.key for e in examples})


def show(number: int, split: str, seed: int = 0, data_dir: str | None = None) -> str:
    """Returns `number` rows of each type of a split, as text."""
    lines = []
    for kind in CONDITION_TYPES:
        for example in load_suite(split, (kind,), data_dir, seed, number):
            lines += [
                f"--- {example.source} [{example.key}]",
                f"condition: {join_condition(example.condition)}",
                f"user:      {example.messages[0].content}",
                f"assistant: {example.answer}",
            ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m megan_jax.data.suite", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", action="store_true", help="the sizes of the splits")
    what.add_argument("--show", type=int, metavar="N", help="N rows of each type")
    parser.add_argument("--split", default="train", help=f"for --show: {', '.join(SPLITS)}")
    parser.add_argument("--seed", type=int, default=0, help="draws the splits")
    parser.add_argument("--data-dir", default=None, help="where the prepared files lie")
    options = parser.parse_args(arguments)
    try:
        if options.table:
            print(table(options.seed, options.data_dir))
        else:
            print(show(options.show, options.split, options.seed, options.data_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
