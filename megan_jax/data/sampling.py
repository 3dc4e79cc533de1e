"""Training batches as a pure function of (seed, step).

Everything drawn here is a hash of (seed, purpose, pass, example number): no generator has a state,
so any batch can be made at any time, on any number of processes, and under any version of numpy.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from megan_jax.data.batch import Batch, Segment, assemble
from megan_jax.data.packing import NO_CONDITION, admit, check_capacity, pack_rows
from megan_jax.data.table import Table
from megan_jax.errors import UserError, nearest

# Purposes of a draw; their numbers are part of what a seed means.
ORDER, MERGE, ROWS, WORDING, DROPOUT = range(5)
OTHER_KEY, OTHER_EXAMPLE, ANY_KEY, ANY_EXAMPLE = range(5, 9)


def draw(seed: int, purpose: int, turn: int | np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """[N] independent uniform 64-bit integers, one an example number.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), folded over (seed, purpose, turn, number).

    Args:
      seed: any integer.
      purpose: what the draw is for, so that two draws for one example are independent.
      turn: the pass over the data; one number, or one an example.
      numbers: [N] example numbers.
    """
    state = np.zeros(np.shape(numbers), np.uint64)
    for part in (seed % 2**64, purpose, turn, numbers):
        word = np.asarray(part, np.uint64)
        state = _mix((state ^ word) + np.uint64(0x9E3779B97F4A7C15))
    return state


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The rows of one epoch of E examples.

    Attributes:
      numbers: [E] example numbers, row after row.
      wordings: [E] the wording drawn for each; -1: it stands without a condition.
      row_starts: [rows + 1] row r holds the examples row_starts[r] : row_starts[r + 1].
    """

    numbers: np.ndarray
    wordings: np.ndarray
    row_starts: np.ndarray

    @property
    def rows(self) -> int:
        """How many rows the epoch has."""
        return len(self.row_starts) - 1


@dataclasses.dataclass(frozen=True)
class EpochStats:
    """What an epoch holds.

    Attributes:
      examples, rows: their numbers.
      tokens: tokens of examples, padding not counted.
      labelled_tokens: targets that count in the loss.
      padding_share: the share of row positions that is padding.
      unconditioned: examples that stand without a condition (none given, or dropped out).
      conditions_cut: wordings that were cut to the condition length, in all usable examples.
      truncated, dropped_long, dropped_unlabelled: see `megan_jax.data.packing.Admission`; they
        count examples of the data, not of the epoch.
    """

    examples: int
    rows: int
    tokens: int
    labelled_tokens: int
    padding_share: float
    unconditioned: int
    conditions_cut: int
    truncated: int
    dropped_long: int
    dropped_unlabelled: int


class BatchSource:
    """Batches of training rows, `batch(step)` being a pure function of (seed, step).

    Epochs follow each other without a gap: the row after the last of one epoch is the first of the
    next, so every batch is full. Without mixing, each usable example appears once an epoch. With
    mixing, an epoch has as many examples, divided among the condition types by their weights, and
    each type walks through its own shuffled passes.

    Args:
      table: the encoded examples.
      seed: of the order, the wordings and the condition dropout.
      batch_size: B, rows a global batch.
      row_length: T.
      condition_capacity: C, condition tokens a row; at least the table's condition length.
      pack: False puts one example in a row.
      on_long: the policy for examples longer than a row, see `packing.admit`.
      mixing: weight of each condition type, any positive scale; types left out, or with weight 0,
        are not used. None: every example once an epoch.
      condition_dropout: probability that an example stands without its condition.
      window: examples packed together, see `packing.pack_rows`.

    Raises:
      UserError: settings that make no batch; see the message.
    """

    def __init__(
        self,
        table: Table,
        *,
        seed: int,
        batch_size: int,
        row_length: int,
        condition_capacity: int,
        pack: bool = True,
        on_long: str = "truncate",
        mixing: Mapping[str, float] | None = None,
        condition_dropout: float = 0.0,
        window: int = 1024,
    ):
        if batch_size < 1:
            raise UserError(f"the batch size is {batch_size}; it is at least 1.")
        if not 0 <= condition_dropout <= 1:
            raise UserError(f"config.data.condition_dropout is {condition_dropout}; it is 0 .. 1.")
        if window < 1:
            raise UserError(f"the packing window is {window}; it is at least 1.")
        check_capacity(condition_capacity, table.condition_length)
        self.table, self.seed, self.batch_size = table, seed, batch_size
        self.row_length, self.condition_capacity = row_length, condition_capacity
        self.pack, self.condition_dropout, self.window = pack, condition_dropout, window
        self.admission = admit(table, row_length, on_long)
        self._groups = self._make_groups(mixing)
        self._epochs: collections.OrderedDict[int, Epoch] = collections.OrderedDict()
        self._row_totals = [0]
        self._lock = threading.Lock()

    @property
    def stats(self) -> EpochStats:
        """What the first epoch holds."""
        return self.epoch_stats(0)

    def epoch_stats(self, number: int) -> EpochStats:
        """What an epoch holds."""
        epoch = self.epoch(number)
        tokens = int(self.admission.lengths[epoch.numbers].sum())
        return EpochStats(
            examples=len(epoch.numbers),
            rows=epoch.rows,
            tokens=tokens,
            labelled_tokens=int(self.admission.labels[epoch.numbers].sum()),
            padding_share=1 - tokens / (epoch.rows * self.row_length),
            unconditioned=int((epoch.wordings < 0).sum()),
            conditions_cut=int(self.table.index.wordings_cut[self.admission.numbers].sum()),
            truncated=self.admission.truncated,
            dropped_long=self.admission.dropped_long,
            dropped_unlabelled=self.admission.dropped_unlabelled,
        )

    def epoch(self, number: int) -> Epoch:
        """The plan of an epoch, a pure function of (seed, number, lengths)."""
        with self._lock:
            return self._epoch(number)

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> Batch:
        """The rows of the global batch of a step that belong to one process.

        Args:
          step: 0, 1, ...
          process_index, process_count: the process gets the rows
            B / process_count * process_index and on; one process gets all.

        Returns:
          A Batch of numpy arrays with B / process_count rows.
        """
        first, count = process_rows(self.batch_size, process_index, process_count)
        plan: list[list[tuple[int, int]]] = []
        row = step * self.batch_size + first
        for position in range(row, row + count):
            epoch, local = self._locate(position)
            part = slice(epoch.row_starts[local], epoch.row_starts[local + 1])
            numbers, wordings = epoch.numbers[part].tolist(), epoch.wordings[part].tolist()
            plan.append(list(zip(numbers, wordings, strict=True)))
        examples = fetch_all(self.table, [number for row_plan in plan for number, _ in row_plan])
        rows = []
        for row_plan in plan:
            segments = []
            for number, wording in row_plan:
                example, n = examples[number], self.admission.lengths[number]
                condition = None
                if wording >= 0:
                    condition = example.conditions[wording][: self.table.condition_length]
                segments.append(Segment(example.tokens[:n], example.loss_mask[:n], condition))
            rows.append(segments)
        return assemble(rows, self.row_length, self.condition_capacity)

    def _locate(self, position: int) -> tuple[Epoch, int]:
        """The epoch of a row counted from the start of training, and its number there."""
        with self._lock:
            while self._row_totals[-1] <= position:
                epoch = self._epoch(len(self._row_totals) - 1)
                self._row_totals.append(self._row_totals[-1] + epoch.rows)
            number = int(np.searchsorted(self._row_totals, position, side="right")) - 1
            return self._epoch(number), position - self._row_totals[number]

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            self._epochs[number] = self._plan(number)
            while len(self._epochs) > 2:  # a batch may stand across the end of an epoch
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(number)
        return self._epochs[number]

    def _make_groups(self, mixing: Mapping[str, float] | None) -> list[tuple[np.ndarray, int]]:
        """Groups of example numbers, each with the number of examples it gives to an epoch."""
        usable, index = self.admission.numbers, self.table.index
        if mixing is None:
            return [(usable, len(usable))]
        for name, weight in mixing.items():
            if name not in index.types:
                raise UserError(
                    f"config.data.type_weights names {name!r}, but the data has the condition "
                    f"types {', '.join(index.types)}.{nearest(name, index.types)}"
                )
            if not 0 <= weight < float("inf"):
                raise UserError(f"config.data.type_weights gives {name!r} the weight {weight}.")
        groups = {
            name: usable[index.type_ids[usable] == index.types.index(name)]
            for name in index.types
            if mixing.get(name, 0) > 0
        }
        for name, members in groups.items():
            if len(members) == 0:
                raise UserError(
                    f"config.data.type_weights gives {name!r} a weight, but none of its examples "
                    f"can be used: all are longer than the row ({self.row_length} tokens) or have "
                    "no labelled token."
                )
        if not groups:
            raise UserError("config.data.type_weights gives no condition type a weight above 0.")
        total = sum(len(members) for members in groups.values())
        quotas = _shares(total, [mixing[name] for name in groups])
        return list(zip(groups.values(), quotas, strict=True))

    def _plan(self, number: int) -> Epoch:
        index = self.table.index
        picks, passes = [], []
        for members, quota in self._groups:
            first, stop = number * quota, (number + 1) * quota
            for turn in range(first // len(members), -(-stop // len(members))):
                keys = draw(self.seed, ORDER, turn, members)
                start = turn * len(members)
                part = slice(max(first - start, 0), stop - start)
                picks.append(members[np.argsort(keys, kind="stable")][part])
                passes.append(np.full(len(picks[-1]), turn, np.int64))
        numbers, turns = np.concatenate(picks), np.concatenate(passes)
        if len(self._groups) > 1:
            keys = draw(self.seed, MERGE, number, np.arange(len(numbers)))
            order = np.argsort(keys, kind="stable")
            numbers, turns = numbers[order], turns[order]

        counts = index.wording_counts[numbers]
        chosen = draw(self.seed, WORDING, turns, numbers) % np.maximum(counts, 1).astype(np.uint64)
        uniform = (draw(self.seed, DROPOUT, turns, numbers) >> np.uint64(11)) * 2.0**-53
        without = (counts == 0) | (uniform < self.condition_dropout)
        wordings = np.where(without, -1, chosen.astype(np.int64))
        if not self.pack:
            return Epoch(numbers, wordings, np.arange(len(numbers) + 1))

        at = np.where(without, 0, index.wording_starts[numbers] + wordings)
        lengths, ids = (_take(x, at) for x in (index.wording_lengths, index.wording_ids))
        rows = pack_rows(
            self.admission.lengths[numbers],
            np.where(without, 0, lengths),
            np.where(without, NO_CONDITION, ids),
            self.row_length,
            self.condition_capacity,
            self.window,
        )
        # A window's rows come out the fullest first: shuffle them over the epoch.
        count = int(rows.max()) + 1
        place = np.empty(count, np.int64)
        shuffled = np.argsort(draw(self.seed, ROWS, number, np.arange(count)), kind="stable")
        place[shuffled] = np.arange(count)
        rows = place[rows]
        order = np.argsort(rows, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
        return Epoch(numbers[order], wordings[order], starts)


def process_rows(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
    """The first row of a process in a global batch, and how many it has."""
    if process_count < 1 or batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} rows cannot be divided among {process_count} processes; "
            "choose a batch size that is a multiple of their number."
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count}.")
    count = batch_size // process_count
    return process_index * count, count


def fetch_all(table: Table, numbers: Sequence[int]) -> dict:
    """The examples with these numbers, each fetched once."""
    distinct = list(dict.fromkeys(numbers))
    return dict(zip(distinct, table.fetch(distinct), strict=True))


def _take(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """`values[at]`; zeros where there are no values at all (data without any condition)."""
    return values[at] if len(values) else np.zeros(len(at), np.int32)


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """Divides a whole number by weights, by largest remainders; every share is at least 1."""
    exact = np.array(weights, np.float64) / np.sum(weights) * total
    shares = np.maximum(np.floor(exact), 1).astype(np.int64)
    for position in np.argsort(-(exact - np.floor(exact)), kind="stable"):
        if shares.sum() >= total:
            break
        shares[position] += 1
    return shares.tolist()
