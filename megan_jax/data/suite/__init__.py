"""The embedded suite: real text for each condition type, as `Example`s.

>>> from megan_jax.data.suite import load_suite
>>> examples = load_suite("train", types=("domain", "style"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megan_jax.data.example import CONDITION_TYPES, Example, Message, check_condition_type
from megan_jax.data.suite.splits import SPLITS
from megan_jax.errors import UserError, nearest

__all__ = ["SPLITS", "load_suite"]


def load_suite(
    split: str,
    types: Sequence[str] | None = None,
    data_dir: str | Path | None = None,
    seed: int = 0,
    limit_per_type: int | None = None,
) -> list[Example]:
    """Loads a split of the suite, preparing it the first time (which fetches its texts).

    The rows of a type are in an order that is balanced over its conditions from the first row on.

    Args:
      split: one of `SPLITS`.
      types: the condition types, in the order of the result; None is all of them. `task` alone
        needs no network.
      data_dir: where the prepared files lie; None is a folder in the cache.
      seed: draws which conditions are unseen and which rows go to which split.
      limit_per_type: at most so many rows of each type; None is all.

    Returns:
      The examples, type after type. `source` is "suite/type/split/index".

    Raises:
      UserError: an unknown split or type, or the texts can't be fetched or the rows stored.
    """
    if split not in SPLITS:
        known = ", ".join(SPLITS)
        raise UserError(
            f"The suite has no split {split!r}; it has {known}.{nearest(split, SPLITS)}"
        )
    kinds = CONDITION_TYPES if types is None else tuple(map(check_condition_type, types))
    if limit_per_type is not None and limit_per_type < 0:
        raise UserError(f"limit_per_type is {limit_per_type}; it must be 0 or more, or None.")
    folder = None if data_dir is None else Path(data_dir)
    examples: list[Example] = []
    for kind in kinds:
        examples += _load(kind, split, folder, seed, limit_per_type)
    return examples


def _load(
    kind: str, split: str, data_dir: Path | None, seed: int, limit: int | None
) -> list[Example]:
    # TFDS takes a second to import, which `import megan_jax.data.suite` shouldn't cost.
    import tensorflow_datasets as tfds

    from megan_jax.data.suite import builders

    name, root, config = builders.prepare(kind, data_dir, seed)
    with builders.quiet():
        source = tfds.data_source(
            name, split=split, data_dir=str(root), builder_kwargs={"config": config}, try_gcs=False
        )
    wanted = len(source) if limit is None else min(limit, len(source))
    rows = source.__getitems__(range(wanted)) if wanted else []
    return [_example(kind, f"suite/{kind}/{split}/{i}", row) for i, row in enumerate(rows)]


def _example(kind: str, source: str, row: dict) -> Example:
    lines = tuple(_text(line) for line in row["condition"])
    key = _text(row["key"])
    return Example(
        condition_type=kind,
        condition=lines if kind == "persona" else lines[0],
        messages=(
            Message("user", _text(row["prompt"])),
            Message("assistant", _text(row["response"])),
        ),
        paraphrases=tuple(_text(text) for text in row["paraphrases"]),
        condition_key=key,
        options=tuple(_text(option) for option in row["options"]),
        task=key if kind == "task" else "",
        source=source,
    )


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
