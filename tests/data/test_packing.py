"""Packing, against the plain loop that defines it, and the policy for long examples."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.packing import NO_CONDITION, admit, pack_rows
from megan_jax.data.table import ListTable
from megan_jax.errors import UserError
from tests.data.encoded import encoded


def pack_slowly(items, row_length, capacity, window):
    """First-fit decreasing, one item after the other."""
    result, first_row = [], 0
    for start in range(0, len(items), window):
        part = items[start : start + window]
        rows, place = [], {}
        size = [max(n * max(capacity, 1), c * row_length) for n, c, _ in part]
        for i in sorted(range(len(part)), key=lambda i: (-size[i], i)):
            n, c, identity = part[i]
            for r, (tokens, room, held) in enumerate([*rows, (row_length, capacity, frozenset())]):
                cost = 0 if identity in held else c
                if tokens >= n and room >= cost:
                    new = (tokens - n, room - cost, held | {identity} - {NO_CONDITION})
                    rows[r : r + 1] = [new]
                    place[i] = r + first_row
                    break
        result += [place[i] for i in range(len(part))]
        first_row += len(rows)
    return result


def drawn_items(data, row_length, capacity):
    conditions = data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=6))
    identities = st.integers(NO_CONDITION, len(conditions) - 1)
    return [
        (n, conditions[i] if i != NO_CONDITION else 0, i)
        for n, i in data.draw(
            st.lists(st.tuples(st.integers(1, row_length), identities), min_size=1, max_size=40)
        )
    ]


@given(st.data(), st.integers(1, 20), st.integers(1, 10), st.integers(1, 50))
def test_equals_the_plain_loop(data, row_length, capacity, window):
    items = drawn_items(data, row_length, capacity)
    rows = pack_rows(*np.array(items).T, row_length, capacity, window)
    assert rows.tolist() == pack_slowly(items, row_length, capacity, window)


@given(st.data(), st.integers(1, 20), st.integers(1, 10), st.integers(1, 50))
def test_no_row_overflows_and_none_is_empty(data, row_length, capacity, window):
    items = drawn_items(data, row_length, capacity)
    rows = pack_rows(*np.array(items).T, row_length, capacity, window)
    assert set(rows.tolist()) == set(range(rows.max() + 1))
    for row in range(rows.max() + 1):
        mine = [item for item, r in zip(items, rows, strict=True) if r == row]
        assert sum(n for n, _, _ in mine) <= row_length
        assert sum(dict((i, c) for _, c, i in mine if i != NO_CONDITION).values()) <= capacity


def test_chunks_of_windows_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    items = (rng.integers(1, 64, 500), rng.integers(1, 8, 500), np.arange(500))
    whole = pack_rows(*items, 64, 32, window=16)
    monkeypatch.setattr("megan_jax.data.packing._WORK", 16 * 17 * 3)
    assert np.array_equal(pack_rows(*items, 64, 32, window=16), whole)


def test_a_shared_condition_takes_room_once():
    same = pack_rows(np.full(4, 5), np.full(4, 8), np.zeros(4, int), 20, 8)
    other = pack_rows(np.full(4, 5), np.full(4, 8), np.arange(4), 20, 8)
    assert same.tolist() == [0, 0, 0, 0] and other.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("items", [([21], [0], [NO_CONDITION]), ([0], [0], [0]), ([3], [9], [0])])
def test_items_that_fit_nowhere_are_refused(items):
    with pytest.raises(ValueError, match="lengths must be"):
        pack_rows(*map(np.array, items), 20, 8)


def test_nothing_packs_into_nothing():
    nothing = np.zeros(0, int)
    assert pack_rows(nothing, nothing, nothing, 20, 8).tolist() == []


def test_rows_are_full_and_a_hundred_thousand_items_are_quick(capsys):
    """Lengths like a chat set's: log-normal, median 90 tokens; five examples a condition."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.5, 0.7, 100_000), 8, 512).astype(int)
    conditions = rng.integers(0, 20_000, 100_000)
    condition_lengths = rng.integers(5, 64, 20_000)[conditions]
    start = time.perf_counter()
    rows = pack_rows(lengths, condition_lengths, conditions, 512, 256)
    seconds = time.perf_counter() - start
    filled = lengths.sum() / (512 * (rows.max() + 1))
    with capsys.disabled():
        print(f"\n  packing: {filled:.1%} of 512-token rows filled; 100,000 in {seconds:.2f} s")
    assert filled > 0.97
    assert seconds < 20


def make(*examples):
    return ListTable(examples, condition_length=8)


def test_long_examples_are_cut_at_the_end():
    table = make(
        encoded(0, 10),
        encoded(1, 30, labels=range(12, 30)),
        encoded(2, 30, labels=[2, 3, 19, 20, 25]),
        encoded(3, 30, labels=range(20, 30)),
        encoded(4, 6, labels=[]),
        encoded(5, 6, labels=[0]),
    )
    admission = admit(table, row_length=20)
    assert admission.numbers.tolist() == [0, 1, 2]
    assert admission.lengths[:3].tolist() == [10, 20, 20]
    assert admission.labels[:3].tolist() == [5, 8, 3]
    assert (admission.truncated, admission.dropped_long, admission.dropped_unlabelled) == (2, 1, 2)
    assert admission.report(20) == [
        "3 examples are longer than the row (20 tokens): 2 cut at the end, 1 left out. First: "
        "data.jsonl:2 (30 tokens), data.jsonl:3 (30 tokens), data.jsonl:4 (30 tokens).",
        "2 examples without a labelled token left out. First: data.jsonl:5, data.jsonl:6.",
    ]


def test_long_examples_are_dropped():
    admission = admit(make(encoded(0, 20), encoded(1, 21), encoded(2, 90)), 20, "drop")
    assert admission.numbers.tolist() == [0]
    assert (admission.truncated, admission.dropped_long, admission.dropped_unlabelled) == (0, 2, 0)


def test_nothing_to_report():
    assert admit(make(encoded(0, 20)), 20, "error").report(20) == []


@pytest.mark.parametrize(
    ("examples", "row_length", "policy", "message"),
    [
        (
            [encoded(n, 21 + n) for n in range(5)],
            20,
            "error",
            r"5 of 5 examples are longer than the row \(20 tokens\): data.jsonl:1 \(21 tokens\), "
            r"data.jsonl:2 \(22 tokens\), data.jsonl:3 \(23 tokens\). Raise config.data.row_length "
            r"\(the longest needs 25\), or set config.data.on_long to truncate or drop",
        ),
        ([encoded(0, 9)], 20, "trunc", "config.data.on_long is 'trunc'.* Did you mean 'truncate'"),
        ([encoded(0, 9)], 1, "drop", "config.data.row_length is 1; a row needs at least 2"),
        ([encoded(0, 30, labels=[25])], 20, "truncate", "none of the 1 examples can be used: 0 "),
        ([], 20, "truncate", "none of the 0 examples can be used"),
        ([encoded(0, 9, labels=[0])], 20, "drop", "1 have no labelled token"),
        ([encoded(0, 9, conditions=[[1], []])], 20, "drop", "data.jsonl:1: a condition has no tok"),
        ([encoded(0, 0)], 20, "drop", "data.jsonl:1: the example has 0 tokens"),
    ],
)
def test_messages(examples, row_length, policy, message):
    with pytest.raises(UserError, match=message):
        admit(make(*examples), row_length, policy)


def test_a_table_needs_a_condition_length():
    with pytest.raises(UserError, match=r"config.hypernet.condition_length is 0; it is at least 1"):
        ListTable([], condition_length=0)


def test_the_index_tells_identities_and_cuts():
    long = list(range(1, 13))
    table = make(
        encoded(0, 4, conditions=[long, [5]], condition_key="a"),
        encoded(1, 4, conditions=[[5]], condition_key="a"),
        encoded(2, 4, conditions=[long[:9]], condition_key="a", condition_type="style"),
        encoded(3, 4),
    )
    index = table.index
    assert index.types == ("task", "style") and index.type_sizes == {"task": 3, "style": 1}
    assert index.wording_counts.tolist() == [2, 1, 1, 0]
    assert index.wording_lengths.tolist() == [8, 1, 1, 8]
    assert index.wordings_cut.tolist() == [1, 0, 1, 0]
    # Conditions are the same if they are the same once cut.
    assert index.wording_ids.tolist() == [0, 1, 1, 0]
    keys = index.key_ids.tolist()
    assert keys[0] == keys[1] and len(set(keys)) == 3
