"""Batches as a pure function of (seed, step): in any order, on any number of processes."""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.sampling import BatchSource, draw, process_rows
from megan_jax.data.table import ListTable
from megan_jax.errors import UserError
from tests.data.encoded import encoded, number_of, random_table

T, C, B = 32, 12, 4


def make_source(table=None, **changes):
    settings = {"seed": 1, "batch_size": B, "row_length": T, "condition_capacity": C} | changes
    return BatchSource(table or random_table(), **settings)


def segments_of(batch):
    """(example, its tokens, its labelled targets, its condition or None) of every segment."""
    for b in range(len(batch.tokens)):
        for s in range(1, batch.segment_ids[b].max() + 1):
            at = batch.segment_ids[b] == s
            tokens = batch.tokens[b, at]
            index = set(batch.condition_index[b, at].tolist())
            assert len(index) == 1
            (j,) = index
            condition = batch.condition_tokens[b, batch.condition_ids[b] == j] if j else None
            yield (
                number_of(tokens[0]),
                tokens,
                batch.targets[b, at & batch.loss_mask[b]],
                None if condition is None else tuple(condition.tolist()),
            )


def epoch_of(source, number):
    """All rows of an epoch as one batch, read through `batch` with one row a batch."""
    first = sum(source.epoch(e).rows for e in range(number))
    single = make_source(
        source.table, batch_size=1, seed=source.seed, pack=source.pack,
        condition_dropout=source.condition_dropout,
    )  # fmt: skip
    batches = [single.batch(first + row) for row in range(source.epoch(number).rows)]
    return jax.tree.map(lambda *rows: np.concatenate(rows), *batches)


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("pack", [True, False])
@given(st.integers(0, 50), st.integers(0, 3), st.integers(0, 2**63))
def test_every_usable_example_once_an_epoch_whole_and_under_its_own_condition(
    pack, table_seed, epoch, seed
):
    table = random_table(table_seed)
    source = make_source(table, seed=seed, pack=pack)
    batch = epoch_of(source, epoch)
    usable = set()
    for number, example in enumerate(table.examples):
        if example.loss_mask[1:T].any():
            usable.add(number)
    assert collections.Counter(number for number, *_ in segments_of(batch)) == dict.fromkeys(
        usable, 1
    )
    for number, tokens, targets, condition in segments_of(batch):
        example = table.examples[number]
        assert tokens.tolist() == example.tokens[:T].tolist()
        labelled = example.tokens[1:T][example.loss_mask[1:T]]
        assert targets.tolist() == labelled.tolist()
        wordings = {tuple(c.tolist()[:4]) for c in example.conditions}
        assert condition in wordings or (condition is None and not wordings)


@given(st.integers(0, 2**64), st.permutations(range(12)))
def test_a_batch_does_not_depend_on_the_batches_made_before(seed, order):
    table = random_table()
    walked = {step: make_source(table, seed=seed).batch(step) for step in (3, 11)}
    jumping = make_source(table, seed=seed)
    batches = {step: jumping.batch(step) for step in order}
    assert all(equal(batches[step], batch) for step, batch in walked.items())


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_slices_of_the_processes_are_the_global_batch(processes):
    table = random_table()
    whole = make_source(table)
    parts = [make_source(table) for _ in range(processes)]
    for step in range(9):  # more than one epoch
        slices = [parts[p].batch(step, p, processes) for p in range(processes)]
        joined = jax.tree.map(lambda *x: np.concatenate(x), *slices)
        assert equal(joined, whole.batch(step))
        assert slices[0].tokens.shape == (B // processes, T)


def test_epochs_follow_each_other_without_a_gap_and_in_another_order():
    source = make_source()
    rows = [source.epoch(e).rows for e in range(3)]
    steps = -(-sum(rows) // B)
    batches = [source.batch(step) for step in range(steps)]
    stream = [n for batch in batches for n, *_ in segments_of(batch)]
    expected = [source.epoch(e).numbers.tolist() for e in range(3)]
    assert stream[: sum(map(len, expected))] == list(itertools.chain(*expected))
    assert expected[0] != expected[1] and sorted(expected[0]) == sorted(expected[1])
    assert {batch.tokens.shape for batch in batches} == {(B, T)}
    assert {batch.condition_ids.shape for batch in batches} == {(B, C)}


def test_another_seed_gives_another_order():
    orders = {tuple(make_source(seed=seed).epoch(0).numbers.tolist()) for seed in (-1, 0, 1, 2**64)}
    assert len(orders) == 3  # seeds are taken modulo 2 ** 64
    assert make_source(seed=0).epoch(0).numbers.tolist() in map(list, orders)


def test_the_order_is_fixed_for_good():
    """The meaning of a seed: a change here changes every run that resumes."""
    table = ListTable([encoded(n, 4) for n in range(10)], 4)
    assert make_source(table, pack=False).epoch(2).numbers.tolist() == [
        9,
        1,
        6,
        0,
        4,
        2,
        7,
        8,
        5,
        3,
    ]


def test_draws_are_splitmix64():
    """Against the algorithm in plain integers."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first output for seed 0
    for seed in (0, -5, 123456789):
        state = 0
        for part in (seed % 2**64, 3, 8, 1234):
            state = mix(((state ^ part) + 0x9E3779B97F4A7C15) % 2**64)
        assert int(draw(seed, 3, 8, np.array([1234]))[0]) == state


def test_draws_are_uniform_and_independent():
    a, b = (draw(0, purpose, 0, np.arange(40_000)) / 2.0**64 for purpose in (3, 4))
    assert abs(a.mean() - 0.5) < 0.006 and abs(a.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02


def test_wordings_are_drawn_anew_each_epoch_and_evenly():
    wordings = [[n] for n in range(1, 5)]
    table = ListTable([encoded(n, 4, conditions=wordings) for n in range(500)], 4)
    source = make_source(table)
    drawn = np.array([
        source.epoch(e).wordings[np.argsort(source.epoch(e).numbers)] for e in range(4)
    ])  # fmt: skip
    assert abs(np.bincount(drawn.ravel(), minlength=4) - 500).max() < 90
    assert 0.2 < (drawn[0] == drawn[1]).mean() < 0.3


def test_condition_dropout():
    table = ListTable([encoded(n, 4, conditions=[[1], [2]]) for n in range(1000)], 4)
    shares = {p: make_source(table, condition_dropout=p).stats.unconditioned for p in (0, 0.3, 1)}
    assert shares[0] == 0 and shares[1] == 1000 and 250 < shares[0.3] < 350
    batch = epoch_of(make_source(table, condition_dropout=1.0), 0)
    assert not batch.condition_index.any() and not batch.condition_ids.any()
    twice = [make_source(table, condition_dropout=0.3).epoch(1).wordings for _ in range(2)]
    assert np.array_equal(*twice)


def test_dropout_leaves_the_order_and_the_wordings_alone():
    table = ListTable([encoded(n, 4, conditions=[[1], [2]]) for n in range(200)], 4)
    plain, dropped = (
        make_source(table, pack=False, condition_dropout=p).epoch(0) for p in (0.0, 0.5)
    )
    assert np.array_equal(plain.numbers, dropped.numbers)
    kept = dropped.wordings >= 0
    assert np.array_equal(plain.wordings[kept], dropped.wordings[kept])


def three_types():
    sizes = {"task": 60, "style": 30, "persona": 10}
    names = [name for name, size in sizes.items() for _ in range(size)]
    return ListTable([encoded(n, 4, condition_type=name) for n, name in enumerate(names)], 4)


def test_mixing_weights_share_out_the_epoch_and_every_example_takes_its_turn():
    table = three_types()
    source = make_source(table, mixing={"task": 1, "style": 1, "persona": 2})
    seen = collections.Counter()
    for epoch in range(6):
        numbers = source.epoch(epoch).numbers
        types = np.bincount(table.index.type_ids[numbers], minlength=3)
        assert types.tolist() == [25, 25, 50]
        seen.update(numbers.tolist())
    counts = [seen[n] for n in range(100)]
    for kind, total in ((range(60), 150), (range(60, 90), 150), (range(90, 100), 300)):
        appearances = [counts[n] for n in kind]
        assert sum(appearances) == total and max(appearances) - min(appearances) <= 1


def test_mixing_leaves_out_types_without_weight_and_never_starves_one():
    table = three_types()
    source = make_source(table, mixing={"style": 1e6, "persona": 1, "task": 0})
    types = np.bincount(table.index.type_ids[source.epoch(0).numbers], minlength=3)
    assert types[0] == 0 and types[1] >= 39 and types[2] == 1


def test_a_mixed_epoch_is_shuffled_across_types():
    table = three_types()
    source = make_source(table, mixing={"task": 1, "style": 1}, pack=False)
    types = table.index.type_ids[source.epoch(0).numbers]
    changes = (types[1:] != types[:-1]).mean()
    assert 0.3 < changes < 0.7


def test_stats_count_what_the_batches_hold():
    source = make_source(condition_dropout=0.2)
    for number in range(3):
        stats, batch = source.epoch_stats(number), epoch_of(source, number)
        segments = list(segments_of(batch))
        assert stats.examples == len(segments) and stats.rows == len(batch.tokens)
        assert stats.tokens == (batch.segment_ids > 0).sum()
        assert stats.labelled_tokens == batch.loss_mask.sum() > 0
        assert stats.padding_share == pytest.approx((batch.segment_ids == 0).mean())
        assert stats.unconditioned == sum(c is None for *_, c in segments)
    lengths = [len(e.tokens) for e in source.table.examples]
    cut = [e for e in source.table.examples if len(e.tokens) > T]
    assert stats.truncated == sum(e.loss_mask[1:T].any() for e in cut) > 0
    unlabelled = sum(not e.loss_mask[1:].any() for e in source.table.examples)
    assert stats.dropped_unlabelled == unlabelled
    assert stats.examples + stats.dropped_long + unlabelled == len(lengths)


def test_conditions_that_were_cut_are_counted():
    cut_here = encoded(0, 4, conditions=[[1, 2, 3, 4, 5, 6]])
    cut_before = dataclasses.replace(encoded(1, 4, conditions=[[1], [2]]), truncated=2)
    stats = make_source(ListTable([cut_here, cut_before], 4)).stats
    assert stats.conditions_cut == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "the batch size is 0; it is at least 1"),
        ({"window": 0}, "the packing window is 0"),
        ({"condition_dropout": 1.5}, r"config.data.condition_dropout is 1.5; it is 0 .. 1"),
        ({"condition_capacity": 3}, "config.data.condition_capacity is 3, less than one condition"),
        ({"mixing": {"stile": 1}}, "config.data.type_weights names 'stile'.* Did you mean 'style'"),
        ({"mixing": {"style": -1}}, "config.data.type_weights gives 'style' the weight -1"),
        (
            {"mixing": {"style": float("nan")}},
            "config.data.type_weights gives 'style' the weight nan",
        ),
        ({"mixing": {"style": 0}}, "no condition type a weight above 0"),
    ],
)
def test_messages(changes, message):
    with pytest.raises(UserError, match=message):
        make_source(**changes)


def test_a_weighted_type_without_usable_examples_is_named():
    table = ListTable([encoded(0, 4), encoded(1, 4, labels=[], condition_type="style")], 4)
    with pytest.raises(
        UserError, match="gives 'style' a weight, but none of its examples can be used"
    ):
        make_source(table, mixing={"task": 1, "style": 1})


def test_a_batch_must_divide_among_processes():
    with pytest.raises(UserError, match="4 rows cannot be divided among 3 processes"):
        make_source().batch(0, 0, 3)
    with pytest.raises(ValueError, match="process 2 of 2"):
        process_rows(4, 2, 2)
