"""Batched decoding against one forward pass per token, and its refusals."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.errors import UserError
from megan_jax.evaluation.decoding import Sampling, _choose, decode
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import RopeScaling
from megan_jax.models.model import Model
from tests.models.tiny import quick_jit, random_params, tiny_model

NEW = 6
MODEL = tiny_model(HypernetConfig(width=8, condition_length=5), max_position_embeddings=128)
PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5]]
CONDITIONS = [[8, 9, 7], None, [9, 3, 2, 3, 8]]


@functools.cache
def params():
    return random_params(MODEL)


@functools.cache
def forward(model: Model):
    return quick_jit(model.apply)


def greedy_by_hand(prompt: list[int], condition: list[int] | None, count: int) -> list[int]:
    """The most likely next token of the whole sequence, again and again; no cache."""
    tokens = np.zeros((1, 16), np.int32)
    ids, mask = np.zeros((2, 1, 5), np.int32)
    if condition is not None:
        ids[0, : len(condition)], mask[0, : len(condition)] = condition, 1
    sequence = list(prompt)
    for _ in range(count):
        tokens[0, : len(sequence)] = sequence
        logits = forward(MODEL)(params(), tokens, None, ids, mask).logits
        sequence.append(int(np.argmax(logits[0, len(sequence) - 1])))
    return sequence[len(prompt) :]


@functools.cache
def batched() -> list[list[int]]:
    return decode(MODEL, params(), PROMPTS, CONDITIONS, max_new_tokens=NEW)


def test_greedy_equals_the_full_forward():
    for prompt, condition, new in zip(PROMPTS, CONDITIONS, batched(), strict=True):
        assert new == greedy_by_hand(prompt, condition, NEW)


def test_a_condition_changes_the_answer():
    others = decode(MODEL, params(), PROMPTS, [None] * 3, max_new_tokens=NEW)
    assert others[1] == batched()[1]
    assert others[0] != batched()[0] or others[2] != batched()[2]


def test_a_row_does_not_depend_on_its_neighbours():
    order = [2, 0, 1]
    shuffled = decode(
        MODEL,
        params(),
        [PROMPTS[i] for i in order],
        [CONDITIONS[i] for i in order],
        max_new_tokens=NEW,
    )
    assert shuffled == [batched()[i] for i in order]
    others = [PROMPTS[0], [7, 7], [1]]
    assert (
        decode(MODEL, params(), others, [CONDITIONS[0], [1], None], max_new_tokens=NEW)[0]
        == batched()[0]
    )


def test_stop_tokens_end_a_row_and_are_left_out():
    for row, new in enumerate(batched()):
        for at, stop in enumerate(new):
            stopped = decode(
                MODEL, params(), PROMPTS, CONDITIONS, max_new_tokens=NEW, stop_tokens=[stop]
            )
            assert stopped[row] == new[: new.index(stop)]
            for ours, whole in zip(stopped, batched(), strict=True):
                assert ours == whole[: whole.index(stop) if stop in whole else NEW]
            if at == 2:
                break


def test_dynamic_rope_decodes_up_to_its_limit():
    model = tiny_model(MODEL.hypernet_config, rope_scaling=RopeScaling("dynamic", 2.0))
    new = decode(model, params(), [list(range(30))], [None], max_new_tokens=34)
    assert len(new[0]) == 34
    with pytest.raises(UserError, match=r"prompt of 30 tokens and 35 new ones exceed .* \(64\)"):
        decode(model, params(), [list(range(30))], [None], max_new_tokens=35)


def test_same_seed_same_sample():
    def draw(seed: int) -> list[list[int]]:
        hot = Sampling(temperature=2.0, top_p=0.95)
        return decode(
            MODEL, params(), PROMPTS, CONDITIONS, max_new_tokens=NEW, sampling=hot, seed=seed
        )

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert all(0 <= token < 37 for row in draw(1) for token in row)
    cold = Sampling(temperature=1e-4)
    assert (
        decode(MODEL, params(), PROMPTS, CONDITIONS, max_new_tokens=NEW, sampling=cold) == batched()
    )


P = np.asarray([0.05, 0.5, 0.15, 0.3])


def drawn(temperature: float, top_p: float, count: int = 4000) -> np.ndarray:
    """Observed shares of the four tokens."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(P, jnp.float32)), (count, 4))
    tokens = _choose(logits, jax.random.key(0), Sampling(temperature, top_p))
    return np.bincount(np.asarray(tokens), minlength=4) / count


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1.0, [0, 1, 2, 3]), (0.9, [1, 2, 3]), (0.75, [1, 3]), (0.5, [1]), (0.1, [1]), (0.0, [1])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: list[int]):
    wanted = np.where(np.isin(np.arange(4), kept), P, 0)
    np.testing.assert_allclose(drawn(1.0, top_p), wanted / wanted.sum(), atol=0.03)


def test_temperature_sharpens_and_flattens():
    for temperature in (0.5, 2.0):
        wanted = P ** (1 / temperature)
        np.testing.assert_allclose(drawn(temperature, 1.0), wanted / wanted.sum(), atol=0.03)
    np.testing.assert_array_equal(drawn(0.0, 1.0), [0, 1, 0, 0])


def test_nothing_to_do():
    assert decode(MODEL, params(), [], [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("prompts", "conditions", "fields", "message"),
    [
        ([[]], [None], {}, "A prompt has no tokens"),
        ([[1]], [[]], {}, "A condition has no tokens; leave it out to run the base model"),
        ([[1]], [[1] * 6], {}, "A condition of 6 tokens exceeds 5"),
        ([[1]], [[1] * 3], {"condition_length": 2}, "A condition of 3 tokens exceeds 2"),
        ([[1]], [None], {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ([[1, 37]], [None], {}, "Token 37 of a prompt is outside the model's vocabulary of 37"),
        ([[1]], [[-1]], {}, "Token -1 of a condition is outside the model's vocabulary of 37"),
        (
            [[1] * 120],
            [None],
            {"max_new_tokens": 9},
            r"prompt of 120 tokens and 9 new ones exceed .* \(128\)",
        ),
    ],
)
def test_refusals(prompts, conditions, fields, message):
    with pytest.raises(UserError, match=message):
        decode(MODEL, params(), prompts, conditions, **{"max_new_tokens": 3, **fields})
