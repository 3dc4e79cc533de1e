"""Laying segments out in rows, against a row written by hand and the plain definition."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.batch import Batch, Segment, assemble


def segment(tokens, mask, condition=None):
    return Segment(np.array(tokens), np.array(mask, bool), condition and np.array(condition))


def test_a_row_written_by_hand():
    rows = [
        [
            segment([5, 6, 7], [0, 0, 1], [40, 41]),
            segment([8, 9], [1, 1], [50]),
            segment([3], [1]),
            segment([4, 2], [0, 1], [40, 41]),
        ],
        [],
    ]
    batch = assemble(rows, row_length=9, condition_capacity=4)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9, 3, 4, 2, 0], [0] * 9]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 1, 0], [0] * 9]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2, 3, 4, 4, 0], [0] * 9]
    assert batch.targets.tolist() == [[6, 7, 0, 9, 0, 0, 2, 0, 0], [0] * 9]
    assert batch.loss_mask.astype(int).tolist() == [[0, 1, 0, 1, 0, 0, 1, 0, 0], [0] * 9]
    # The first and the last segment share condition 1.
    assert batch.condition_tokens.tolist() == [[40, 41, 50, 0], [0] * 4]
    assert batch.condition_ids.tolist() == [[1, 1, 2, 0], [0] * 4]
    assert batch.condition_index.tolist() == [[1, 1, 1, 2, 2, 0, 1, 1, 0], [0] * 9]
    assert batch.key_mask is None
    assert batch.tokens.dtype == np.int32 and batch.loss_mask.dtype == bool


def test_a_batch_is_a_pytree_of_eight_arrays():
    batch = assemble([[segment([1, 2], [0, 1])]], 4, 1)
    assert len(jax.tree.leaves(batch)) == 8
    doubled = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    assert isinstance(doubled, Batch) and doubled.tokens.shape == (2, 4)
    jitted = jax.jit(lambda b: (b.targets * b.loss_mask).sum())
    assert int(jitted(batch)) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[segment([1, 2, 3], [0, 0, 1]), segment([1, 2], [0, 1])]], "segment 2 ends at 5 of 4"),
        ([[segment([], [])]], "segment 1 ends at 0 of 4"),
        (
            [[segment([1], [0], [7, 8]), segment([1], [0], [9])]],
            "condition of segment 2 ends at 3 of 2",
        ),
    ],
)
def test_overfull_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        assemble(rows, row_length=4, condition_capacity=2)


segments = st.builds(
    lambda pairs, condition: segment([t for t, _ in pairs], [m for _, m in pairs], condition),
    st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=6),
    st.sampled_from([None, [1], [2, 3], [4, 5, 6], [2]]),
)


@given(st.lists(st.lists(segments, max_size=4), min_size=1, max_size=4))
def test_every_segment_can_be_read_back(rows):
    batch = assemble(rows, row_length=24, condition_capacity=8)
    for b, row in enumerate(rows):
        assert batch.segment_ids[b].max() == len(row)
        for number, expected in enumerate(row, start=1):
            at = np.flatnonzero(batch.segment_ids[b] == number)
            assert batch.tokens[b, at].tolist() == expected.tokens.tolist()
            assert batch.positions[b, at].tolist() == list(range(len(expected.tokens)))
            # Labels as pairs (position of the target, target): the definition, without a shift.
            labelled = [(t + 1, int(batch.targets[b, at[t]])) for t in range(len(at))
                        if batch.loss_mask[b, at[t]]]  # fmt: skip
            assert labelled == [
                (i, int(expected.tokens[i]))
                for i in range(1, len(expected.tokens))
                if expected.loss_mask[i]
            ]
            (condition,) = set(batch.condition_index[b, at].tolist())
            if expected.condition is None:
                assert condition == 0
            else:
                found = batch.condition_tokens[b, batch.condition_ids[b] == condition]
                assert found.tolist() == expected.condition.tolist()
        padding = batch.segment_ids[b] == 0
        for array in (batch.tokens, batch.targets, batch.loss_mask, batch.condition_index):
            assert not array[b, padding].any()
        distinct = {tuple(s.condition.tolist()) for s in row if s.condition is not None}
        assert batch.condition_ids[b].max() == len(distinct)  # each condition once
