"""Twenty optimizer steps of the main method against the recorded ones."""

from __future__ import annotations

import jax
import numpy as np

from megan_jax.convert import load
from megan_jax.models.model import Model
from megan_jax.training.optimizer import adamw, learning_rate
from megan_jax.training.step import State, make_train_step
from megan_jax.training.trainable import join, split
from tests.parity.conftest import reference_tensors
from tests.parity.test_models import recorded_batch

LOSS, RATE, NORM, FINAL = 1e-5, 1e-8, 1e-4, 2e-4


def test_twenty_steps(part):
    case = part("training")
    found = load(case)
    golden = dict(np.load(case / "golden.npz"))
    steps = len(golden["loss"])
    model = Model(found.config, found.hypernet)
    rate = learning_rate(5e-3, steps, warmup_ratio=0.1)
    optimizer = adamw(rate, weight_decay=0.1, clip_norm=0.05)
    trainable, frozen = split(found.params, ["hyper/.*"], frozen=["hyper/layer_embeddings/.*"])
    state = State.create(trainable, optimizer)
    step = jax.jit(make_train_step(model, optimizer, rate, loss_chunk=32))
    keys = ("input_ids", "attention_mask", "condition_ids", "labels")
    for i in range(steps):
        batch = recorded_batch({key: golden[key][i] for key in keys})
        state, metrics = step(state, frozen, batch)
        assert abs(float(metrics["loss"]) / golden["loss"][i] - 1) < LOSS, f"step {i}"
        assert abs(float(metrics["learning_rate"]) - golden["lr"][i]) < RATE, f"step {i}"
        assert abs(float(metrics["grad_norm"]) / golden["grad_norm"][i] - 1) < NORM, f"step {i}"
    finals = {k.removeprefix("final:"): v for k, v in golden.items() if k.startswith("final:")}
    params = jax.tree.map(np.asarray, join(frozen, state.trainable))
    ours = reference_tensors(model, params)
    assert finals
    for name, theirs in finals.items():
        off = np.linalg.norm((ours[name] - theirs).ravel()) / np.linalg.norm(theirs.ravel())
        assert off < FINAL, f"{name}: {off:.3g}"
