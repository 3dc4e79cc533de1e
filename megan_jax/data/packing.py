"""Packing: which examples fit at all, and which of them share a row.

Both are pure functions of an index of lengths; no example is read. A row has two capacities, its
tokens and its condition tokens.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from megan_jax.data.table import ExampleIndex, Table
from megan_jax.errors import UserError, nearest

ON_LONG = ("truncate", "drop", "error")
NO_CONDITION = -1

# Entries of the largest work array of `pack_rows`: 32 MB.
_WORK = 32 * 2**20
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Admission:
    """Which examples can stand in a row, and how long they are there.

    Attributes:
      numbers: [M] numbers of the admitted examples, ascending.
      lengths: [N] tokens that each example takes in a row, at most the row length.
      labels: [N] labelled tokens that are left.
      truncated: examples cut at the end to the row length.
      dropped_long: examples left out by the policy "drop", or since cutting left no label.
      dropped_unlabelled: examples without a labelled token, left out under any policy.
      long_sources: where the first few examples longer than a row come from.
      unlabelled_sources: the same for examples without labels.
    """

    numbers: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    truncated: int
    dropped_long: int
    dropped_unlabelled: int
    long_sources: tuple[str, ...]
    unlabelled_sources: tuple[str, ...]

    def report(self, row_length: int) -> list[str]:
        """One line for each kind of example that was cut or left out; no line if none was."""
        lines = []
        if self.truncated or self.dropped_long:
            lines.append(
                f"{self.truncated + self.dropped_long} examples are longer than the row "
                f"({row_length} tokens): {self.truncated} cut at the end, {self.dropped_long} "
                f"left out. First: {', '.join(self.long_sources)}."
            )
        if self.dropped_unlabelled:
            lines.append(
                f"{self.dropped_unlabelled} examples without a labelled token left out. "
                f"First: {', '.join(self.unlabelled_sources)}."
            )
        return lines


def admit(table: Table, row_length: int, on_long: str = "truncate") -> Admission:
    """Applies the policy for examples longer than a row.

    "truncate" cuts at the end, so that the prompt keeps its start, and leaves an example out where
    no labelled token would be left; "drop" leaves all long ones out; "error" refuses them.

    Args:
      table: the examples.
      row_length: T, tokens a row; at least 2 (a token and its target).
      on_long: one of `ON_LONG`.

    Raises:
      UserError: an unknown policy, a row of less than two tokens, a long example under "error",
        or no example left.
    """
    if on_long not in ON_LONG:
        raise UserError(
            f"config.data.on_long is {on_long!r}; it is one of {', '.join(ON_LONG)}."
            f"{nearest(str(on_long), ON_LONG)}"
        )
    if row_length < 2:
        raise UserError(f"config.data.row_length is {row_length}; a row needs at least 2 tokens.")
    index = table.index
    long = index.lengths > row_length
    unlabelled = index.labels == 0
    long_sources = _sources(table, np.flatnonzero(long), lengths=True)
    if on_long == "error" and long.any():
        raise UserError(
            f"{long.sum()} of {len(index)} examples are longer than the row ({row_length} tokens):"
            f" {', '.join(long_sources)}. Raise config.data.row_length (the longest needs "
            f"{index.lengths.max()}), or set config.data.on_long to truncate or drop."
        )
    keep = ~unlabelled & ((index.first_label < row_length) if on_long == "truncate" else ~long)
    if not keep.any():
        raise UserError(
            f"none of the {len(index)} examples can be used: {unlabelled.sum()} have no labelled "
            f"token, {(long & ~unlabelled).sum()} are longer than the row ({row_length} tokens) "
            f"under config.data.on_long={on_long}. Check the data, or raise config.data.row_length."
        )
    lengths = np.minimum(index.lengths, row_length)
    return Admission(
        numbers=np.flatnonzero(keep),
        lengths=lengths,
        labels=_labels_left(table, np.flatnonzero(keep & long), row_length),
        truncated=int((keep & long).sum()),
        dropped_long=int((~keep & long & ~unlabelled).sum()),
        dropped_unlabelled=int(unlabelled.sum()),
        long_sources=long_sources,
        unlabelled_sources=_sources(table, np.flatnonzero(unlabelled)),
    )


def _labels_left(table: Table, cut: np.ndarray, row_length: int) -> np.ndarray:
    """[N] labelled tokens of each example once those in `cut` end at the row length."""
    index: ExampleIndex = table.index
    labels = index.labels.copy()
    last = np.minimum(index.last_label[cut], row_length - 1)
    labels[cut] = last - index.first_label[cut] + 1
    one_run = index.last_label - index.first_label + 1 == index.labels
    gaps = cut[~one_run[cut]]  # answers to several turns: only the example tells how many are left
    for start in range(0, len(gaps), 1024):
        some = gaps[start : start + 1024].tolist()
        for number, example in zip(some, table.fetch(some), strict=True):
            labels[number] = int(np.sum(example.loss_mask[1:row_length]))
    return labels


def _sources(table: Table, numbers: np.ndarray, lengths: bool = False) -> tuple[str, ...]:
    first = numbers[:_SHOWN].tolist()
    names = []
    for number, example in zip(first, table.fetch(first), strict=True):
        name = example.source or f"example {number}"
        names.append(f"{name} ({len(example.tokens)} tokens)" if lengths else name)
    return tuple(names)


def check_capacity(condition_capacity: int, condition_length: int) -> None:
    """Raises UserError unless one condition of the full length fits in a row."""
    if condition_capacity < condition_length:
        raise UserError(
            f"config.data.condition_capacity is {condition_capacity}, less than one condition "
            f"(config.hypernet.condition_length is {condition_length}); raise the capacity."
        )


def pack_rows(
    lengths: np.ndarray,
    condition_lengths: np.ndarray,
    condition_ids: np.ndarray,
    row_length: int,
    condition_capacity: int,
    window: int = 1024,
) -> np.ndarray:
    """First-fit decreasing within windows, under two capacities.

    The items are cut into windows of consecutive items, and each window fills rows of its own:
    every item, the largest first, goes to the first row with room for its tokens and its
    condition; a condition that a row already holds takes no room. An item is as large as the
    greater of the shares of a row that its tokens and its condition take. All windows are packed
    side by side, so that numpy does the work: a million items take seconds.

    Args:
      lengths: [M] tokens of each item, in the order in which windows are cut; 1 .. row_length.
      condition_lengths: [M] condition tokens of each item, 0 .. condition_capacity.
      condition_ids: [M] identity of the condition; `NO_CONDITION`: none.
      row_length: T.
      condition_capacity: C.
      window: items a window.

    Returns:
      [M] the row of each item; rows are numbered from 0 without gaps.

    Raises:
      ValueError: an item that fits in no row.
    """
    lengths = np.asarray(lengths, np.int64)
    condition_lengths = np.where(condition_ids == NO_CONDITION, 0, condition_lengths)
    condition_lengths = condition_lengths.astype(np.int64)
    if len(lengths) == 0:
        return np.zeros(0, np.int64)
    if lengths.min() < 1 or lengths.max() > row_length:
        raise ValueError(f"item lengths must be 1 .. {row_length}.")
    if condition_lengths.min() < 0 or condition_lengths.max() > condition_capacity:
        raise ValueError(f"condition lengths must be 0 .. {condition_capacity}.")
    window = min(window, len(lengths))
    windows = max(1, _WORK // (window * (window + 1)))
    rows = np.empty(len(lengths), np.int64)
    first_row = 0
    for start in range(0, len(lengths), windows * window):
        part = slice(start, start + windows * window)
        local = _pack_windows(
            lengths[part],
            condition_lengths[part],
            np.asarray(condition_ids)[part],
            (row_length, condition_capacity),
            window,
        )
        # Rows in the order of their windows, without gaps.
        _, rows[part] = np.unique(local, return_inverse=True)
        rows[part] += first_row
        first_row = rows[part].max() + 1
    return rows


def _pack_windows(
    lengths: np.ndarray,
    condition_lengths: np.ndarray,
    condition_ids: np.ndarray,
    capacities: tuple[int, int],
    window: int,
) -> np.ndarray:
    """The row of each item as window number * window + row within the window."""
    count = -(-len(lengths) // window)
    pad = (0, count * window - len(lengths))
    tokens = np.pad(lengths, pad).reshape(count, window)
    cost = np.pad(condition_lengths, pad).reshape(count, window)
    ids = np.pad(condition_ids, pad, constant_values=NO_CONDITION).reshape(count, window)
    size = np.maximum(tokens * max(capacities[1], 1), cost * capacities[0])
    order = np.argsort(-size, axis=1, kind="stable")
    tokens, cost, ids = (np.take_along_axis(x, order, 1) for x in (tokens, cost, ids))
    condition = _rank_within(ids)  # 0: no condition, which every row holds

    every = np.arange(count)
    free_tokens = np.full((count, window), capacities[0])
    free_cost = np.full((count, window), capacities[1])
    holds = np.zeros((count, int(condition.max()) + 1, window), bool)
    holds[:, 0] = True
    chosen = np.empty((count, window), np.int64)
    opened = 0
    for item in range(window):
        some = slice(0, opened + 1)  # one fresh row, which always fits
        shared = holds[every, condition[:, item], some]
        needed = np.where(shared, 0, cost[:, item, None])
        fits = (free_tokens[:, some] >= tokens[:, item, None]) & (free_cost[:, some] >= needed)
        row = fits.argmax(axis=1)
        free_tokens[every, row] -= tokens[:, item]
        free_cost[every, row] -= needed[every, row]
        holds[every, condition[:, item], row] = True
        chosen[:, item] = row
        opened = min(max(opened, int(row.max()) + 1), window - 1)
    result = np.empty_like(chosen)
    np.put_along_axis(result, order, chosen + every[:, None] * window, 1)
    return result.reshape(-1)[: len(lengths)]


def _rank_within(ids: np.ndarray) -> np.ndarray:
    """[W, n] each id as its rank among the distinct ids of its line; `NO_CONDITION` is 0."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    new = ordered[:, 1:] != ordered[:, :-1]
    first = (ordered[:, :1] != NO_CONDITION).astype(np.int64)
    ranks = np.concatenate([first, first + np.cumsum(new, axis=1)], axis=1)
    result = np.empty_like(ranks)
    np.put_along_axis(result, order, ranks, 1)
    return result
