"""Encoded examples as a table: rows fetched by number, and an index that plans need no rows for."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from megan_jax.errors import UserError


class Encoded(Protocol):
    """What planning and packing read of an encoded example (`megan_jax.data.encode`).

    Attributes:
      tokens: [n] int32.
      loss_mask: [n] whether each token itself is labelled.
      conditions: one int32 array a wording of the same condition, the first is the condition as
        given; empty: no condition.
      condition_type, condition_key: a mismatched condition has the same type, another key.
      source: where the example comes from, for messages.
      truncated: how many of the wordings the encoder has cut.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    conditions: Sequence[np.ndarray]
    condition_type: str
    condition_key: str
    source: str
    truncated: int


@dataclasses.dataclass(frozen=True)
class ExampleIndex:
    """What a plan depends on, for N examples with W wordings in all. Conditions are cut already.

    Attributes:
      lengths: [N] tokens of each example.
      labels: [N] labelled tokens that can be targets (the first token of an example cannot).
      first_label, last_label: [N] positions of the first and last of these; the length and -1
        where there is none.
      type_ids: [N] position in `types`.
      key_ids: [N] one number a distinct (type, key).
      wording_starts: [N + 1] example i has the wordings wording_starts[i] : wording_starts[i+1].
      wording_lengths: [W] condition tokens, at most `condition_length`.
      wording_ids: [W] one number a distinct sequence of condition tokens.
      wordings_cut: [N] how many wordings of each example the encoder or the table has cut.
      types: the names of the condition types that occur.
    """

    lengths: np.ndarray
    labels: np.ndarray
    first_label: np.ndarray
    last_label: np.ndarray
    type_ids: np.ndarray
    key_ids: np.ndarray
    wording_starts: np.ndarray
    wording_lengths: np.ndarray
    wording_ids: np.ndarray
    wordings_cut: np.ndarray
    types: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def wording_counts(self) -> np.ndarray:
        """[N] wordings of each example; 0: no condition."""
        return np.diff(self.wording_starts)

    @property
    def type_sizes(self) -> dict[str, int]:
        """How many examples each condition type has."""
        counts = np.bincount(self.type_ids, minlength=len(self.types)).tolist()
        return dict(zip(self.types, counts, strict=True))


class Table(Protocol):
    """Encoded examples that can be fetched by number."""

    index: ExampleIndex
    condition_length: int

    def fetch(self, numbers: Sequence[int]) -> list[Encoded]:
        """The examples with these numbers, in this order."""
        ...


class IndexBuilder:
    """Collects an `ExampleIndex` while examples pass by once."""

    def __init__(self, condition_length: int):
        if condition_length < 1:
            raise UserError(
                f"config.hypernet.condition_length is {condition_length}; it is at least 1."
            )
        self.condition_length = condition_length
        self._rows: list[tuple[int, ...]] = []
        self._wordings: list[tuple[int, int]] = []
        self._wording_starts = [0]
        self._types: dict[str, int] = {}
        self._keys: dict[tuple[str, bytes], int] = {}
        self._wording_ids: dict[bytes, int] = {}

    def add(self, example: Encoded) -> None:
        """Adds one example. Raises UserError for one without tokens or with an empty condition."""
        where = f"{example.source}: " if example.source else ""
        tokens, mask = np.asarray(example.tokens), np.asarray(example.loss_mask, bool)
        if tokens.ndim != 1 or len(tokens) == 0 or mask.shape != tokens.shape:
            raise UserError(
                f"{where}the example has {tokens.size} tokens and a loss mask of {mask.size}; "
                "it needs at least one token and as many mask entries."
            )
        cuts = example.truncated
        for condition in example.conditions:
            if len(condition) == 0:
                raise UserError(
                    f"{where}a condition has no tokens; leave the condition out for none."
                )
            cut = np.asarray(condition, np.int32)[: self.condition_length]
            # A digest instead of the bytes: a million long conditions would not fit a dict.
            digest = hashlib.blake2b(cut.tobytes(), digest_size=16).digest()
            number = self._wording_ids.setdefault(digest, len(self._wording_ids))
            self._wordings.append((len(cut), number))
            cuts += len(condition) > len(cut)
        self._wording_starts.append(len(self._wordings))
        labelled = np.flatnonzero(mask[1:]) + 1
        first, last = (labelled[0], labelled[-1]) if len(labelled) else (len(tokens), -1)
        kind = self._types.setdefault(example.condition_type, len(self._types))
        identity = example.condition_key.encode()
        if not identity and len(example.conditions):
            identity = np.asarray(example.conditions[0], np.int32).tobytes()
        key = self._keys.setdefault((example.condition_type, identity), len(self._keys))
        self._rows.append((len(tokens), len(labelled), first, last, kind, key, cuts))

    def finish(self) -> ExampleIndex:
        """The index of the examples added so far."""
        rows = np.array(self._rows, np.int32).reshape(-1, 7).T.copy()
        wordings = np.array(self._wordings, np.int32).reshape(-1, 2).T.copy()
        return ExampleIndex(
            *rows[:6],
            wordings_cut=rows[6],
            wording_starts=np.array(self._wording_starts, np.int64),
            wording_lengths=wordings[0],
            wording_ids=wordings[1],
            types=tuple(self._types),
        )


class ListTable:
    """A table of examples held in memory.

    Args:
      examples: encoded examples.
      condition_length: every condition is cut to this many tokens.
    """

    def __init__(self, examples: Iterable[Encoded], condition_length: int):
        self.examples = list(examples)
        self.condition_length = condition_length
        builder = IndexBuilder(condition_length)
        for example in self.examples:
            builder.add(example)
        self.index = builder.finish()

    def fetch(self, numbers: Sequence[int]) -> list[Encoded]:
        """The examples with these numbers, in this order."""
        return [self.examples[number] for number in numbers]
