"""Our model against the recorded behaviour of the reference, case by case."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.convert import load
from megan_jax.data.batch import Batch
from megan_jax.evaluation.decoding import decode
from megan_jax.models.model import Model
from megan_jax.training.loss import loss_fn, totals
from tests.parity.conftest import cases_root, model_cases, reference_tensors

# Bounds of the comparison in float32 on CPU.
LOGITS, LOGITS_DIVIDED, LOSS, BETA, GRADIENT, GRADIENT_FLOOR = 5e-5, 1e-4, 1e-6, 1e-5, 1e-4, 1e-7


@functools.lru_cache(maxsize=2)
def loaded(case: Path):
    found = load(case)
    golden = dict(np.load(case / "golden.npz"))
    return Model(found.config, found.hypernet), found.params, golden


def recorded_batch(golden: dict[str, np.ndarray]) -> Batch:
    """The recorded rows as our batch: labels shift to the token that predicts them."""
    tokens, labels = golden["input_ids"], golden["labels"]
    rows, length = tokens.shape
    shifted = np.concatenate([labels[:, 1:], np.full((rows, 1), -100)], axis=1)
    condition = golden["condition_ids"]
    return Batch(
        tokens=jnp.asarray(tokens, jnp.int32),
        positions=jnp.broadcast_to(jnp.arange(length), (rows, length)),
        segment_ids=jnp.ones((rows, length), jnp.int32),
        targets=jnp.asarray(np.maximum(shifted, 0), jnp.int32),
        loss_mask=jnp.asarray(shifted >= 0),
        condition_tokens=jnp.asarray(condition, jnp.int32),
        condition_ids=jnp.ones(condition.shape, jnp.int32),
        condition_index=jnp.ones((rows, length), jnp.int32),
        key_mask=jnp.asarray(golden["attention_mask"]),
    )


def test_there_are_cases():
    assert model_cases(), f"{cases_root()} has no folder with a golden.npz"


@pytest.mark.parametrize("divided", [True, False], ids=["divided", "product"])
def test_logits_and_beta(case: Path, divided: bool):
    model, params, golden = loaded(case)
    config = dataclasses.replace(model.hypernet_config, divided_activation=divided)
    model = Model(model.config, config)
    out = jax.jit(functools.partial(model.apply, return_beta=True))(
        params, golden["input_ids"], golden["attention_mask"], golden["condition_ids"]
    )
    bound = LOGITS_DIVIDED if divided else LOGITS
    np.testing.assert_allclose(out.logits, golden["logits"], rtol=0, atol=bound)
    np.testing.assert_allclose(out.beta, golden["beta"], rtol=0, atol=BETA)


def test_loss_and_gradients(case: Path):
    model, params, golden = loaded(case)
    batch = recorded_batch(golden)

    @jax.jit
    def gradient(params):
        return jax.value_and_grad(
            lambda p: loss_fn(model, p, batch, totals(model, batch), chunk=16)[0]
        )(params)

    loss, grads = gradient(params)
    assert abs(float(loss) / float(golden["loss"]) - 1) < LOSS
    recorded = {k.removeprefix("grad:"): v for k, v in golden.items() if k.startswith("grad:")}
    ours = reference_tensors(model, jax.tree.map(np.asarray, grads))
    assert sorted(ours) == sorted(recorded)
    total = np.sqrt(sum(float(np.sum(np.square(v, dtype=np.float64))) for v in recorded.values()))
    for name, theirs in recorded.items():
        difference = float(np.linalg.norm((np.asarray(ours[name]) - theirs).ravel()))
        allowed = GRADIENT * float(np.linalg.norm(theirs.ravel())) + GRADIENT_FLOOR * total
        assert difference <= allowed, f"{name}: {difference:.3g} > {allowed:.3g}"


def test_greedy_continuation_through_the_cache(case: Path):
    model, params, golden = loaded(case)
    generated = golden["generated"]
    prompt_length = 9
    prompts = [list(map(int, row[:prompt_length])) for row in golden["input_ids"][:2]]
    conditions = [list(map(int, row)) for row in golden["condition_ids"][:2]]
    new = decode(
        model,
        params,
        prompts,
        conditions,
        max_new_tokens=generated.shape[1] - prompt_length,
        condition_length=len(conditions[0]),
    )
    for row in range(2):
        assert prompts[row] + new[row] == list(map(int, generated[row]))


def test_greedy_continuation_without_a_cache(case: Path):
    model, params, golden = loaded(case)
    generated = golden["generated"]
    apply = jax.jit(model.apply)
    for row in range(2):
        tokens = golden["input_ids"][row : row + 1, :9]
        condition = golden["condition_ids"][row : row + 1]
        # One fixed shape: causality makes the tokens behind the last one irrelevant.
        buffer = np.zeros((1, generated.shape[1]), np.int32)
        buffer[:, :9] = tokens
        for position in range(9, generated.shape[1]):
            logits = apply(params, buffer, condition_ids=condition).logits
            buffer[0, position] = int(jnp.argmax(logits[0, position - 1]))
        assert list(buffer[0]) == list(map(int, generated[row]))
