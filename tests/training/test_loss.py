"""Token losses, penalties and their denominators against plain numpy."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megan_jax.data.batch import Batch, assemble
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.model import Model
from megan_jax.training.loss import batch_nll, forward, loss_fn, penalty_mask, token_nll, totals
from tests.models.tiny import (
    assert_trees_close,
    draw_condition,
    draw_segment,
    quick_jit,
    random_params,
    tiny_model,
)

V, D = 11, 5


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@functools.cache
def compiled_nll(chunk: int):
    @quick_jit
    def run(head, hidden, targets, mask, weights):
        def total(head, hidden):
            nll = token_nll(lambda x: x @ head, hidden, targets, mask, chunk)
            return jnp.sum(nll * weights), nll

        return jax.grad(total, argnums=(0, 1), has_aux=True)(head, hidden)

    return run


@settings(max_examples=25)
@given(
    chunk=st.sampled_from([1, 7, 1000]),
    labelled=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])),
    seed=st.integers(0, 2**16),
)
def test_token_nll_and_its_gradient(chunk: int, labelled: float, seed: int):
    """7 tokens at a time of 3 rows of 8: two slots a row, the last slice half empty."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((3, 8, D)).astype(np.float32)
    head = rng.standard_normal((D, V)).astype(np.float32)
    targets = rng.integers(0, V, (3, 8)).astype(np.int32)
    mask = rng.random((3, 8)) < labelled
    weights = rng.standard_normal((3, 8)).astype(np.float32)
    (to_head, to_hidden), nll = compiled_nll(chunk)(head, hidden, targets, mask, weights)
    logs = log_softmax(hidden.astype(np.float64) @ head)
    picked = np.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(nll, np.where(mask, -picked, 0), atol=1e-5)
    assert not np.asarray(nll)[~mask].any()
    # ∂(-log p_y)/∂logits = p - onehot(y).
    wanted = (np.exp(logs) - np.eye(V)[targets]) * (weights * mask)[..., None]
    np.testing.assert_allclose(to_hidden, wanted @ head.T, atol=2e-5)
    np.testing.assert_allclose(to_head, np.einsum("btd,btv->dv", hidden, wanted), atol=2e-5)


def penalised(**fields) -> Model:
    return tiny_model(HypernetConfig(width=8, penalty_weight=0.3, **fields))


@functools.cache
def a_batch() -> Batch:
    """Two packed rows: with and without conditions, with padding, and a key mask."""
    rng = np.random.default_rng(0)
    one, two = draw_condition(rng, 3), draw_condition(rng, 2)
    rows = [
        [draw_segment(rng, 5, one), draw_segment(rng, 4), draw_segment(rng, 3, two)],
        [draw_segment(rng, 6, two)],
    ]
    batch = assemble(rows, 14, 6)
    keys = np.ones((2, 14), np.int32)
    keys[1, 4:6] = 0
    return batch.replace(key_mask=keys)


@functools.cache
def beta_and_loss(h: HypernetConfig):
    model = tiny_model(h)
    params, batch = random_params(model), a_batch()

    @quick_jit
    def run(params):
        modulation = model.modulate(params, batch.condition_tokens, batch.condition_ids)
        out = model.run_target(
            params,
            batch.tokens,
            batch.positions,
            batch.segment_ids,
            modulation=modulation,
            condition_index=batch.condition_index,
            key_mask=batch.key_mask,
            return_beta=True,
        )
        return out.beta, loss_fn(model, params, batch, totals(model, batch), 16)

    return run(params)


@pytest.mark.parametrize(
    ("kind", "reduction", "padding"),
    [("l1", "sum", True), ("l1", "mean", False), ("l2", "mean", True), ("l2", "sum", False)],
)
def test_penalty_by_definition(kind: str, reduction: str, padding: bool):
    h = HypernetConfig(
        width=8,
        start_layer=1,
        penalty=kind,
        penalty_weight=0.3,
        penalty_reduction=reduction,
        penalty_includes_padding=padding,
    )
    beta, (total, parts) = beta_and_loss(h)
    beta, batch = np.asarray(beta, np.float64), a_batch()
    counted = np.ones((2, 14), bool)
    if not padding:
        counted = (batch.segment_ids > 0) & (batch.condition_index > 0) & (batch.key_mask > 0)
        assert counted.sum() == 5 + 3 + 4
    values = beta[1:][:, counted]
    size = np.abs(values) if kind == "l1" else values**2
    wanted = size.sum() if reduction == "sum" else size.mean()
    assert float(parts["penalty"]) == pytest.approx(wanted, rel=1e-5)
    assert float(total) == pytest.approx(float(parts["loss"]) + 0.3 * wanted, rel=1e-5)


def test_denominators():
    batch = a_batch()
    model = penalised(penalty="l1")
    total = totals(model, batch)
    assert float(total.labels) == batch.loss_mask.sum() > 3
    assert float(total.penalised) == 12 * 3 * 20
    later = penalised(penalty="l1", start_layer=2)
    assert float(totals(later, batch).penalised) == 12 * 1 * 20
    everything = penalised(penalty="l1", penalty_includes_padding=True)
    assert float(totals(everything, batch).penalised) == 28 * 3 * 20
    np.testing.assert_array_equal(penalty_mask(everything, batch), np.ones((2, 14)))
    base = totals(tiny_model(), batch.replace(loss_mask=np.zeros((2, 14), bool)))
    # Nothing to divide by: one, not zero.
    assert float(base.labels) == 1
    free = batch.replace(condition_index=np.zeros((2, 14), np.int32))
    assert float(totals(model, free).penalised) == 1


def test_without_a_penalty_beta_costs_nothing():
    weightless = HypernetConfig(width=8, penalty="l1", penalty_weight=0.0)
    _, (total, parts) = beta_and_loss(weightless)
    assert float(parts["penalty"]) == 0
    assert float(total) == float(parts["loss"])


# Packing: the same examples in one row each, and several to a row.

PACKED = HypernetConfig(width=8, heads=2, bias=True, penalty="l2", penalty_weight=0.5)


@functools.cache
def gradient():
    """Loss and gradients of every parameter of both networks."""
    model = tiny_model(PACKED)

    def loss(params, batch):
        return loss_fn(model, params, batch, totals(model, batch), 16)

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def examples():
    rng = np.random.default_rng(5)
    shared, own = draw_condition(rng, 4), draw_condition(rng, 3)
    return [
        draw_segment(rng, 6, shared),
        draw_segment(rng, 3),
        draw_segment(rng, 5, own),
        draw_segment(rng, 4, shared),
        draw_segment(rng, 7, own),
        draw_segment(rng, 1),
    ]


def packings() -> dict[str, Batch]:
    """In one shape, so that they share a program."""
    e = examples()
    rows = {
        "one by one": [[segment] for segment in e],
        "packed": [[e[0], e[1], e[3]], [e[2], e[4]], [e[5]], [], [], []],
        "another order": [[], [e[4], e[2], e[5]], [], [e[3], e[0], e[1]], [], []],
        "in two rows": [[e[1], e[4], e[0]], [e[5], e[3], e[2]], [], [], [], []],
    }
    return {name: assemble(some, 16, 8) for name, some in rows.items()}


def test_packing_changes_neither_loss_nor_gradients():
    params = random_params(tiny_model(PACKED))
    batches = packings()
    (value, parts), grads = gradient()(params, batches.pop("one by one"))
    assert float(parts["penalty"]) > 1e-3
    for batch in batches.values():
        (other, others), other_grads = gradient()(params, batch)
        assert float(other) == pytest.approx(float(value), rel=1e-6)
        assert float(others["penalty"]) == pytest.approx(float(parts["penalty"]), rel=1e-5)
        assert_trees_close(other_grads, grads, 1e-5)


def test_token_losses_do_not_depend_on_the_neighbours():
    model = tiny_model(PACKED)
    params = random_params(model)
    nll = quick_jit(functools.partial(batch_nll, model), static_argnums=2)
    batches = packings()
    alone, packed = batches["one by one"], batches["packed"]
    single, together = nll(params, alone, 16), np.asarray(nll(params, packed, 16))
    for number, (row, start) in enumerate([(0, 0), (0, 6), (1, 0), (0, 9), (1, 5), (2, 0)]):
        length = len(examples()[number].tokens)
        np.testing.assert_allclose(
            together[row, start : start + length], single[number, :length], atol=2e-5
        )


def test_padding_tokens_are_never_read():
    params = random_params(tiny_model(PACKED))
    batch = packings()["packed"]
    padding = batch.segment_ids == 0
    other = batch.replace(
        tokens=np.where(padding, 17, batch.tokens),
        positions=np.where(padding, 3, batch.positions),
        condition_tokens=np.where(batch.condition_ids == 0, 23, batch.condition_tokens),
    )
    ((one, _), grads), ((two, _), others) = gradient()(params, batch), gradient()(params, other)
    assert float(one) == float(two)
    assert_trees_close(others, grads, 1e-6)


def test_forward_without_a_hypernetwork_is_the_base_model():
    gated = tiny_model(PACKED)
    base = Model(gated.config)
    params = random_params(gated)
    batch = packings()["packed"]
    free = dataclasses.replace(batch, condition_index=np.zeros_like(batch.condition_index))
    run = functools.partial(jax.jit, static_argnums=0)(forward)
    np.testing.assert_array_equal(run(base, params, batch).hidden, run(gated, params, free).hidden)
