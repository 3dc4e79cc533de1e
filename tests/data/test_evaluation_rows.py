"""Evaluation rows: each example once, only the conditions change, and the draws are right."""

import collections

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.evaluation_rows import CONDITIONS, EvaluationSource, condition_donors
from megan_jax.data.table import ListTable
from megan_jax.errors import UserError
from tests.data.encoded import encoded, random_table

T, C, B = 32, 12, 4


def make_source(table, **changes):
    settings = {"batch_size": B, "row_length": T, "condition_capacity": C, "seed": 3} | changes
    return EvaluationSource(table, **settings)


def keyed_table(keys):
    """An example for each of the keys, under the one-token condition 100 + key."""
    examples = [encoded(n, 5, None, [[100 + k]], "task", f"k{k}") for n, k in enumerate(keys)]
    return ListTable(examples, condition_length=4)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("condition", CONDITIONS)
@given(st.integers(0, 30))
def test_every_usable_example_once_and_found_by_its_number(pack, condition, table_seed):
    table = random_table(table_seed)
    source = make_source(table, pack=pack)
    donors = condition_donors(table.index, condition, 3)
    seen = collections.Counter()
    for batch, numbers in source.batches(condition):
        assert batch.tokens.shape == (B, T) and batch.condition_ids.shape == (B, C)
        assert numbers.shape == (B, source.segments)
        for b in range(B):
            for s in range(source.segments):
                at = batch.segment_ids[b] == s + 1
                number = numbers[b, s]
                if number < 0:
                    assert not batch.loss_mask[b, at].any()
                    continue
                seen[number] += 1
                assert batch.tokens[b, at].tolist() == table.examples[number].tokens[:T].tolist()
                assert batch.loss_mask[b, at].sum() == source.admission.labels[number] > 0
                (j,) = set(batch.condition_index[b, at].tolist())
                held = batch.condition_tokens[b, batch.condition_ids[b] == j].tolist() if j else []
                donor = donors[number]
                expected = table.examples[donor].conditions[0].tolist() if donor >= 0 else []
                assert held == expected[:4]
    expected = source.admission.numbers
    if condition.endswith("mismatched"):
        expected = expected[donors[expected] >= 0]
    assert seen == dict.fromkeys(expected.tolist(), 1)


def test_only_the_conditions_differ_between_kinds():
    source = make_source(random_table(1))
    for step in range(source.batches_count):
        matched, _ = source.batch(step, "matched")
        for condition in CONDITIONS[1:]:
            other, _ = source.batch(step, condition)
            for name in ("tokens", "positions", "segment_ids", "targets"):
                assert np.array_equal(getattr(matched, name), getattr(other, name))
            differs = not np.array_equal(matched.condition_tokens, other.condition_tokens)
            assert differs and not (other.loss_mask & ~matched.loss_mask).any()


def test_room_is_kept_for_the_longest_condition_of_the_type():
    short = [encoded(n, 2, None, [[9]], "task", "short") for n in range(12)]
    long = encoded(12, 2, None, [[1, 2, 3, 4]], "task", "long")
    source = make_source(ListTable([*short, long], 4), condition_capacity=8)
    assert source.segments == 2
    for condition in CONDITIONS:
        for batch, _ in source.batches(condition):
            assert batch.tokens.shape == (B, T)


@given(st.integers(0, 100), st.integers(0, 2**63))
def test_a_mismatched_condition_has_the_type_another_key_and_other_tokens(table_seed, seed):
    table = random_table(table_seed)
    for number, donor in enumerate(condition_donors(table.index, "mismatched", seed).tolist()):
        example = table.examples[number]
        if donor < 0:
            continue
        other = table.examples[donor]
        assert other.condition_type == example.condition_type
        assert other.condition_key != example.condition_key
        assert other.conditions[0].tolist() != example.conditions[0].tolist()


def test_other_keys_are_equally_likely_however_many_examples_they_have():
    keys = [0] * 2000 + [1] * 900 + [2] * 90 + [3] * 10
    table = keyed_table(keys)
    donors = condition_donors(table.index, "mismatched", 0)
    assert (donors >= 0).all()
    drawn = np.bincount(np.array(keys)[donors[:2000]], minlength=4)
    assert drawn[0] == 0 and abs(drawn[1:] - 2000 / 3).max() < 80


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.6, 0.3, 0.1)])
def test_shuffled_conditions_say_nothing_about_the_example(shares):
    """The own key is as likely under "shuffled" as under "shuffled_mismatched": 1 / keys."""
    keys = np.repeat(np.arange(len(shares)), (np.array(shares) * 12_000).astype(int))
    index = keyed_table(keys.tolist()).index
    shuffled = condition_donors(index, "shuffled", 5)
    opposed = condition_donors(index, "shuffled_mismatched", 5)
    assert (keys[shuffled] != keys[opposed]).all()
    for donors in (shuffled, opposed):
        assert abs((keys[donors] == keys).mean() - 1 / len(shares)) < 0.03


def test_keys_whose_conditions_have_the_same_tokens_are_no_mismatch():
    first_five = [[9, 9, 9, 9, k] for k in range(5)]  # the same once cut to 4 tokens
    examples = [encoded(k, 5, None, [c], "task", f"k{k}") for k, c in enumerate(first_five)]
    table = ListTable([*examples, encoded(5, 5, None, [[8]], "task", "k5")], condition_length=4)
    donors = condition_donors(table.index, "mismatched", 0)
    assert donors[:5].tolist() == [5] * 5 and donors[5] in range(5)


def test_a_type_with_one_key_is_left_out_of_the_mismatched_batches():
    tasks = [encoded(n, 5, None, [[n]], "task", f"k{n % 2}") for n in range(4)]
    styles = [encoded(n, 5, None, [[n]], "style", "only") for n in range(4, 7)]
    source = make_source(ListTable([*tasks, *styles, encoded(7, 5)], 4))
    assert source.unmatchable.tolist() == [4, 5, 6]
    counted = {
        condition: sorted(
            int(n) for _, numbers in source.batches(condition) for n in numbers.ravel() if n >= 0
        )
        for condition in CONDITIONS
    }
    assert counted["mismatched"] == counted["shuffled_mismatched"] == [0, 1, 2, 3]
    assert counted["matched"] == counted["none"] == counted["shuffled"] == list(range(8))


@pytest.mark.parametrize("keys", [[0, 0, 0], [0]])
def test_data_with_one_condition_has_no_mismatched_figure(keys):
    source = make_source(keyed_table(keys))
    message = r"no example has a mismatched condition: each condition type in the data \(task\)"
    with pytest.raises(UserError, match=message):
        source.batch(0, "mismatched")
    assert source.batch(0, "matched")[0].loss_mask.any()


def test_data_without_conditions_can_be_evaluated():
    source = make_source(ListTable([encoded(n, 6) for n in range(3)], 4))
    batch, numbers = source.batch(0, "matched")
    assert not batch.condition_ids.any() and sorted(numbers[numbers >= 0]) == [0, 1, 2]


@pytest.mark.parametrize("processes", [2, 4])
def test_the_slices_of_the_processes_are_the_global_batch(processes):
    source = make_source(random_table(2))
    for step in range(source.batches_count):
        slices = [source.batch(step, "mismatched", p, processes) for p in range(processes)]
        joined = jax.tree.map(lambda *x: np.concatenate(x), *slices)
        whole = source.batch(step, "mismatched")
        assert jax.tree.all(jax.tree.map(np.array_equal, joined, whole))


def test_messages():
    with pytest.raises(
        UserError, match=r"unknown kind of condition 'match'.*Did you mean 'matched"
    ):
        make_source(keyed_table([0, 1])).batch(0, "match")
    with pytest.raises(UserError, match=r"unknown kind of condition 'x'"):
        condition_donors(keyed_table([0, 1]).index, "x", 0)
    with pytest.raises(UserError, match=r"config.data.condition_capacity is 3"):
        make_source(keyed_table([0, 1]), condition_capacity=3)
    with pytest.raises(UserError, match="the batch size is 0"):
        make_source(keyed_table([0, 1]), batch_size=0)
