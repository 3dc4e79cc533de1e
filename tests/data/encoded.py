"""Encoded examples, for tests, whose tokens say where they come from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megan_jax.data.encode import EncodedExample
from megan_jax.data.table import ListTable

TOKENS_AN_EXAMPLE = 1000


def encoded(
    number: int,
    length: int,
    labels: Sequence[int] | None = None,
    conditions: Sequence[Sequence[int]] = (),
    condition_type: str = "task",
    condition_key: str = "",
) -> EncodedExample:
    """Token i of example n is 1000 (n + 1) + i; by default the second half is labelled."""
    mask = np.zeros(length, bool)
    mask[list(range(length // 2, length)) if labels is None else list(labels)] = True
    return EncodedExample(
        tokens=(TOKENS_AN_EXAMPLE * (number + 1) + np.arange(length)).astype(np.int32),
        loss_mask=mask,
        conditions=tuple(np.array(condition, np.int32) for condition in conditions),
        condition_type=condition_type,
        condition_key=condition_key,
        source=f"data.jsonl:{number + 1}",
    )


def number_of(token: int) -> int:
    """The example that a token belongs to."""
    return int(token) // TOKENS_AN_EXAMPLE - 1


def random_table(seed: int = 0, count: int = 40, longest: int = 38) -> ListTable:
    """Two condition types, five keys with up to three wordings of 2, 4 and 6 tokens (of which the
    table keeps 4), and some examples without a condition."""
    rng = np.random.default_rng(seed)
    wordings = {
        key: [[key, w, *[7] * (2 * w)] for w in range(rng.integers(1, 4))] for key in range(1, 6)
    }
    examples = []
    for number in range(count):
        length = int(rng.integers(2, longest))
        key = int(rng.integers(0, 6))
        labels = sorted({int(i) for i in rng.integers(0, length, 3)})
        kind = "style" if key % 2 else "domain"
        examples.append(encoded(number, length, labels, wordings.get(key, []), kind, f"key {key}"))
    return ListTable(examples, condition_length=4)
