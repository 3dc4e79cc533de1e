"""A batch: rows of packed examples, each token under its own condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np

Array = Any  # numpy on the host, jax on the device: a Batch is the same pytree for both.


@flax.struct.dataclass
class Batch:
    """The one input of the model and of the loss. All integers are int32, all masks bool.

    A row holds one or more segments (examples), one after the other, then padding. Everything
    that keeps segments apart is data: no row boundary means anything but this.

    Attributes:
      tokens: [B, T] token ids; 0 in padding (any id would do: nothing reads it).
      positions: [B, T] position for the rotary embedding; starts at 0 in each segment.
      segment_ids: [B, T] 1, 2, ... in the order of the row; 0 is padding. A token attends only
        within its own segment.
      targets: [B, T] the next token of the same segment; 0 where there is none.
      loss_mask: [B, T] whether targets[b, t] is labelled. The token masks of the examples are
        shifted by one here: the first token of a segment is never a target.
      condition_tokens: [B, C] the conditions of the row, one after the other; 0 in padding.
      condition_ids: [B, C] j + 1 for the tokens of the row's condition j; 0 is padding and is
        never attended.
      condition_index: [B, T] the id of the condition under which a token stands; 0 is none (the
        base model), and padding. Several segments may stand under one condition.
      key_mask: [B, T] keys that may be attended at all, the public `attention_mask`; None: all.
    """

    tokens: Array
    positions: Array
    segment_ids: Array
    targets: Array
    loss_mask: Array
    condition_tokens: Array
    condition_ids: Array
    condition_index: Array
    key_mask: Array | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """One example as it stands in a row.

    Attributes:
      tokens: [n] token ids, n >= 1.
      loss_mask: [n] whether the token itself (not its successor) is labelled.
      condition: [c] the tokens of its condition, c >= 1; None: no condition.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    condition: np.ndarray | None = None


def assemble(rows: Sequence[Sequence[Segment]], row_length: int, condition_capacity: int) -> Batch:
    """Lays segments out in rows.

    Conditions with the same tokens are stored once a row.

    Args:
      rows: the segments of each of the B rows; an empty row becomes padding.
      row_length: T.
      condition_capacity: C, condition tokens a row.

    Returns:
      A Batch of numpy arrays.

    Raises:
      ValueError: a row holds more tokens, or more condition tokens, than fit: whoever planned the
        rows did so with other capacities.
    """
    shape, condition_shape = (len(rows), row_length), (len(rows), condition_capacity)
    tokens, positions, segment_ids, targets, condition_index = np.zeros((5, *shape), np.int32)
    condition_tokens, condition_ids = np.zeros((2, *condition_shape), np.int32)
    loss_mask = np.zeros(shape, bool)
    for b, row in enumerate(rows):
        start = condition_start = 0
        known: dict[bytes, int] = {}
        for number, segment in enumerate(row, start=1):
            n = len(segment.tokens)
            stop = start + n
            if n == 0 or stop > row_length:
                raise ValueError(f"row {b}: segment {number} ends at {stop} of {row_length}.")
            tokens[b, start:stop] = segment.tokens
            positions[b, start:stop] = np.arange(n)
            segment_ids[b, start:stop] = number
            targets[b, start : stop - 1] = segment.tokens[1:]
            loss_mask[b, start : stop - 1] = segment.loss_mask[1:]
            if segment.condition is not None:
                condition = np.asarray(segment.condition, np.int32)
                key = condition.tobytes()
                if key not in known:
                    end = condition_start + len(condition)
                    if len(condition) == 0 or end > condition_capacity:
                        raise ValueError(
                            f"row {b}: the condition of segment {number} ends at {end} of "
                            f"{condition_capacity}."
                        )
                    known[key] = len(known) + 1
                    condition_tokens[b, condition_start:end] = condition
                    condition_ids[b, condition_start:end] = known[key]
                    condition_start = end
                condition_index[b, start:stop] = known[key]
            start = stop
    return Batch(
        tokens=tokens,
        positions=positions,
        segment_ids=segment_ids,
        targets=targets,
        loss_mask=loss_mask,
        condition_tokens=condition_tokens,
        condition_ids=condition_ids,
        condition_index=condition_index,
    )
