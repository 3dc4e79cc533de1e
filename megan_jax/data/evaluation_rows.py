"""Evaluation rows: every example once, the same rows under every kind of condition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from megan_jax.data.batch import Batch, Segment, assemble
from megan_jax.data.packing import NO_CONDITION, admit, check_capacity, pack_rows
from megan_jax.data.sampling import (
    ANY_EXAMPLE,
    ANY_KEY,
    OTHER_EXAMPLE,
    OTHER_KEY,
    draw,
    fetch_all,
    process_rows,
)
from megan_jax.data.table import ExampleIndex, Table
from megan_jax.errors import UserError, nearest

CONDITIONS = ("matched", "mismatched", "none", "shuffled", "shuffled_mismatched")
NONE = -1


def condition_donors(index: ExampleIndex, condition: str, seed: int) -> np.ndarray:
    """Whose condition each example stands under; a donor gives its first wording.

    * "matched": its own. "none": no condition.
    * "mismatched": that of an example with another key of the same type and other tokens. The
      other keys are equally likely, then the examples of the key.
    * "shuffled": that of an example under any key of the same type, its own included, drawn the
      same way. "shuffled_mismatched": the donor's mismatched condition. Both are independent of
      the example, and the keys are equally likely in both, however many examples each has; so
      the effect that "mismatched" less "matched" measures has expectation zero between these two.

    Args:
      index: N examples.
      condition: one of `CONDITIONS`.
      seed: of the draws.

    Returns:
      [N] example numbers; -1: no condition. Under "mismatched" and "shuffled_mismatched", -1 also
      stands for a conditioned example whose type has no other condition.

    Raises:
      UserError: an unknown kind of condition.
    """
    check_condition(condition)
    conditioned = index.wording_counts > 0
    own = np.where(conditioned, np.arange(len(index)), NONE)
    if condition == "none":
        return np.full(len(index), NONE, np.int64)
    if condition == "matched":
        return own
    any_key, other_key = np.full((2, len(index)), NONE, np.int64)
    for kind in range(len(index.types)):
        members = np.flatnonzero(conditioned & (index.type_ids == kind))
        if len(members):
            any_key[members], other_key[members] = _draw_donors(index, members, seed)
    if condition == "mismatched":
        return other_key
    if condition == "shuffled":
        return any_key
    return np.where(conditioned, other_key[any_key], NONE)


def _draw_donors(
    index: ExampleIndex, members: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each of the members (one type): one with any key; one with another key and wording."""
    _, rank, sizes = np.unique(index.key_ids[members], return_inverse=True, return_counts=True)
    by_key = members[np.argsort(rank, kind="stable")]
    starts = np.cumsum(sizes) - sizes

    def pick(keys: np.ndarray, draws: np.ndarray) -> np.ndarray:
        return by_key[starts[keys] + _below(draws, sizes[keys])]

    any_key = pick(
        _below(draw(seed, ANY_KEY, 0, members), len(sizes)), draw(seed, ANY_EXAMPLE, 0, members)
    )
    other_key = np.full(len(members), NONE, np.int64)
    wording = index.wording_ids[index.wording_starts[members]]
    first, within = draw(seed, OTHER_KEY, 0, members), draw(seed, OTHER_EXAMPLE, 0, members)
    others = len(sizes) - 1
    for attempt in range(others):
        left = np.flatnonzero(other_key == NONE)
        if len(left) == 0:
            break
        step = (_below(first[left], others) + attempt) % others
        found = pick((rank[left] + 1 + step) % len(sizes), within[left])
        differs = index.wording_ids[index.wording_starts[found]] != wording[left]
        other_key[left[differs]] = found[differs]
    return any_key, other_key


def _below(draws: np.ndarray, bounds: np.ndarray | int) -> np.ndarray:
    """Uniform numbers below the bounds."""
    return (draws % np.asarray(bounds, np.uint64)).astype(np.int64)


def check_condition(condition: str) -> None:
    """Raises UserError unless this is one of `CONDITIONS`."""
    if condition not in CONDITIONS:
        raise UserError(
            f"unknown kind of condition {condition!r}; it is one of {', '.join(CONDITIONS)}."
            f"{nearest(str(condition), CONDITIONS)}"
        )


class EvaluationSource:
    """Every usable example exactly once, in rows that are the same for each kind of condition.

    Each example reserves the room of the longest condition of its type, so that only the conditions
    differ between two kinds.

    Args:
      table: the encoded examples.
      batch_size: B; the last batch is filled with padding rows.
      row_length: T.
      condition_capacity: C, condition tokens a row; at least the table's condition length.
      seed: of the mismatched and shuffled draws.
      pack: False puts one example in a row.
      on_long: the policy for examples longer than a row, see `packing.admit`.

    Attributes:
      admission: which examples are used, `packing.Admission`.
      batches_count: how many batches there are.
      segments: S, the most segments a row has.
      unmatchable: [U] used examples that have a condition but no mismatched one, since their type
        has no other. They count in no mismatched batch.
      has_mismatched: whether any used example has a mismatched condition.
    """

    def __init__(
        self,
        table: Table,
        *,
        batch_size: int,
        row_length: int,
        condition_capacity: int,
        seed: int = 0,
        pack: bool = True,
        on_long: str = "truncate",
    ):
        if batch_size < 1:
            raise UserError(f"the batch size is {batch_size}; it is at least 1.")
        check_capacity(condition_capacity, table.condition_length)
        self.table, self.seed, self.batch_size = table, seed, batch_size
        self.row_length, self.condition_capacity = row_length, condition_capacity
        self.admission = admit(table, row_length, on_long)
        numbers, index = self.admission.numbers, table.index
        if pack:
            reserved = _reserved(index)[numbers]
            ids = np.where(reserved > 0, np.arange(len(numbers)), NO_CONDITION)
            lengths = self.admission.lengths[numbers]
            row = pack_rows(lengths, reserved, ids, row_length, condition_capacity)
        else:
            row = np.arange(len(numbers))
        self._rows = np.split(
            numbers[np.argsort(row, kind="stable")], np.cumsum(np.bincount(row))[:-1]
        )
        self.batches_count = -(-len(self._rows) // batch_size)
        self.segments = max(len(row_numbers) for row_numbers in self._rows)
        self._donors = {kind: condition_donors(index, kind, seed) for kind in CONDITIONS}
        usable = numbers[index.wording_counts[numbers] > 0]
        self.unmatchable = usable[self._donors["mismatched"][usable] == NONE]
        self.has_mismatched = len(self.unmatchable) < len(usable)

    def batch(
        self, step: int, condition: str, process_index: int = 0, process_count: int = 1
    ) -> tuple[Batch, np.ndarray]:
        """One batch, and which example each of its segments is.

        Args:
          step: 0 .. batches_count - 1.
          condition: one of `CONDITIONS`, see `condition_donors`.
          process_index, process_count: as for `BatchSource.batch`.

        Returns:
          The Batch, and numbers [B, S]: segment s + 1 of row b is example numbers[b, s]; -1 where
          there is no such segment. In a mismatched batch, examples without a mismatched condition
          (`unmatchable`, or without any condition) have number -1 and no labels.

        Raises:
          UserError: an unknown kind of condition, or no example has a mismatched one.
        """
        check_condition(condition)
        donors, mismatched = self._donors[condition], condition.endswith("mismatched")
        if mismatched and not self.has_mismatched:
            raise UserError(
                "no example has a mismatched condition: each condition type in the data "
                f"({', '.join(self.table.index.types)}) has fewer than two conditions. "
                "Add examples under other conditions, or leave the mismatched figures out."
            )
        first, count = process_rows(self.batch_size, process_index, process_count)
        first += step * self.batch_size
        rows = self._rows[first : first + count]
        rows = rows + [np.zeros(0, np.int64)] * (count - len(rows))
        listed = np.concatenate([*rows, np.zeros(0, np.int64)])
        wanted = [*listed.tolist(), *(d for d in donors[listed].tolist() if d != NONE)]
        examples = fetch_all(self.table, wanted)
        numbers = np.full((count, self.segments), -1, np.int64)
        segments = []
        for b, row in enumerate(rows):
            segments.append([])
            for s, number in enumerate(row.tolist()):
                example, n, donor = examples[number], self.admission.lengths[number], donors[number]
                mask, condition_tokens = example.loss_mask[:n], None
                if donor != NONE:
                    length = self.table.condition_length
                    condition_tokens = examples[int(donor)].conditions[0][:length]
                if mismatched and donor == NONE:
                    mask = np.zeros(n, bool)
                else:
                    numbers[b, s] = number
                segments[-1].append(Segment(example.tokens[:n], mask, condition_tokens))
        return assemble(segments, self.row_length, self.condition_capacity), numbers

    def batches(
        self, condition: str, process_index: int = 0, process_count: int = 1
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """All batches in order; see `batch`."""
        for step in range(self.batches_count):
            yield self.batch(step, condition, process_index, process_count)


def _reserved(index: ExampleIndex) -> np.ndarray:
    """[N] tokens of the longest first wording in each example's type; 0 without a condition."""
    conditioned = index.wording_counts > 0
    reserved = np.zeros(len(index), np.int64)
    for kind in range(len(index.types)):
        members = np.flatnonzero(conditioned & (index.type_ids == kind))
        if len(members):
            reserved[members] = index.wording_lengths[index.wording_starts[members]].max()
    return reserved
