"""Dividing rows into train, seen_validation, seen_test and unseen_test. Pure functions.

Whole conditions are set aside for unseen_test. The rows of a seen condition are divided by
document (a country, a scene, one review), and no text of an evaluation split occurs in another.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPLITS = ("train", "seen_validation", "seen_test", "unseen_test")
# The share of the documents that each evaluation split may draw from.
EVAL_SHARE = 0.12


@dataclass(frozen=True)
class Row:
    """One question and answer under one condition, before wordings and splits.

    Attributes:
      key: the condition's identity.
      prompt, response: the user's turn and the answer.
      group: the document it is from; the rows of one document stay in one split of seen rows.
      texts: what must not occur in another row, let alone another split; normalised.
      options: the closed set of answers, if there is one.
    """

    key: str
    prompt: str
    response: str
    group: str
    texts: tuple[str, ...]
    options: tuple[str, ...] = ()


def choose_unseen(
    keys: Iterable[str], count: int, seed: int, name: str, always_seen: Iterable[str] = ()
) -> frozenset[str]:
    """Draws the `count` conditions that training never sees: a pure function of its arguments."""
    candidates = sorted(set(keys) - set(always_seen))
    return frozenset(random.Random(f"{seed}/{name}/unseen").sample(candidates, count))


def split_rows(
    rows: Sequence[Row],
    unseen: frozenset[str],
    seed: int,
    name: str,
    train_per_key: int,
    eval_size: int,
) -> dict[str, list[Row]]:
    """Divides rows; every split is balanced over its keys from its first row on.

    Args:
      rows: all rows of one condition type, in a fixed order.
      unseen: the keys that go to unseen_test and nowhere else. If there are none, unseen_test
        takes documents of its own (and the caller gives its rows conditions that were not seen).
      seed, name: what the division is drawn from, together with nothing else.
      train_per_key: most training rows of a key.
      eval_size: most rows of an evaluation split.
    """
    rows = list(rows)
    random.Random(f"{seed}/{name}/rows").shuffle(rows)
    homes = _divide_groups({row.group for row in rows if row.key not in unseen}, unseen, seed, name)
    pools: dict[str, dict[str, list[Row]]] = {split: {} for split in SPLITS}
    for row in rows:
        home = "unseen_test" if row.key in unseen else homes[row.group]
        pools[home].setdefault(row.key, []).append(row)
    used: set[str] = set()
    result: dict[str, list[Row]] = {}
    # Evaluation first: a text that stands in two splits is dropped from training.
    for split in reversed(SPLITS):
        limit = train_per_key if split == "train" else eval_size
        taken = set(used)
        fresh = {key: _take(pool, limit, taken) for key, pool in sorted(pools[split].items())}
        ordered = _interleave(fresh, random.Random(f"{seed}/{name}/{split}"))
        result[split] = ordered if split == "train" else ordered[:eval_size]
        used.update(text for row in result[split] for text in row.texts)
    return {split: result[split] for split in SPLITS}


def _divide_groups(
    groups: set[str], unseen: frozenset[str], seed: int, name: str
) -> dict[str, str]:
    ordered = sorted(groups)
    random.Random(f"{seed}/{name}/groups").shuffle(ordered)
    splits = SPLITS[1:3] if unseen else SPLITS[1:]
    size = round(EVAL_SHARE * len(ordered))
    homes = dict.fromkeys(ordered, "train")
    for i, split in enumerate(splits):
        homes.update(dict.fromkeys(ordered[i * size : (i + 1) * size], split))
    return homes


def _take(pool: list[Row], limit: int, taken: set[str]) -> list[Row]:
    """The first `limit` rows without a text in `taken`, to which theirs are added."""
    rows: list[Row] = []
    for row in pool:
        if len(rows) < limit and taken.isdisjoint(row.texts):
            taken.update(row.texts)
            rows.append(row)
    return rows


def _interleave(rows_of: dict[str, list[Row]], rng: random.Random) -> list[Row]:
    """One row of every key in turn, so that any beginning of the split is balanced."""
    ordered: list[Row] = []
    for i in range(max(map(len, rows_of.values()), default=0)):
        turn = [key for key in rows_of if i < len(rows_of[key])]
        rng.shuffle(turn)
        ordered += [rows_of[key][i] for key in turn]
    return ordered
