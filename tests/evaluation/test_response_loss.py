"""Response losses against a plain log-softmax, and the control that shuffles conditions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megan_jax.data.experiment import encode, evaluation_source, read_examples
from megan_jax.evaluation.response_loss import response_losses
from megan_jax.evaluation.run import evaluate_model
from megan_jax.evaluation.statistics import paired_interval
from megan_jax.loading import Loaded, load_run
from tests.runs import run_training, write_data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A run on data where nothing but the condition tells which answer is right.

    The target is random, and gates alone cannot make it say anything; so it is trained too.
    """
    folder = tmp_path_factory.mktemp("gap")
    more = ("train.steps=120", "train.checkpoint_every=200", "optimizer.learning_rate=3e-3")
    run = run_training(folder, "run", *(f"--config.{item}" for item in more), arg="full")
    return load_run(run)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory):
    """Rows with prompts that training did not see."""
    return write_data(tmp_path_factory.mktemp("held"), rows=96, first=1000)


def source_of(loaded: Loaded, path):
    loaded.config.data.train = loaded.config.data.eval = (str(path),)
    examples = read_examples([str(path)], loaded.config)
    return examples, evaluation_source(examples, loaded.tokenizer, loaded.config, 8)


def test_each_example_has_the_loss_of_a_plain_forward_pass(trained: Loaded, held_out):
    examples, source = source_of(trained, held_out)
    found = response_losses(trained.model, trained.params, source, ["matched", "none"])
    encoded = list(encode(examples, trained.tokenizer, trained.config, training=False))
    apply = jax.jit(trained.model.apply)
    for number in (0, 1, 2, 95):
        row = encoded[number]
        for kind in ("matched", "none"):
            condition = None if kind == "none" else row.conditions[0][None]
            logits = apply(trained.params, row.tokens[None], condition_ids=condition).logits[0]
            chosen = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
            targets = row.tokens[1:]
            nll = -np.asarray(chosen)[np.arange(len(targets)), targets]
            labelled = np.asarray(row.loss_mask, bool)[1:]
            assert found[kind].tokens[number] == labelled.sum() > 0
            np.testing.assert_allclose(found[kind].nll[number], nll[labelled].sum(), rtol=2e-5)


def test_shuffling_the_conditions_makes_the_gap_vanish(trained: Loaded, held_out):
    _, source = source_of(trained, held_out)
    kinds = ["matched", "mismatched", "shuffled", "shuffled_mismatched"]
    found = response_losses(trained.model, trained.params, source, kinds)
    tokens = found["matched"].tokens
    gap = paired_interval(found["matched"].nll, found["mismatched"].nll, tokens)
    assert gap.high < -0.4, "the model must have learned to read the condition"
    control = paired_interval(found["shuffled"].nll, found["shuffled_mismatched"].nll, tokens)
    assert control.low < 0 < control.high
    assert abs(control.mean) < abs(gap.mean) / 3


def test_an_evaluation_without_conditions_to_compare_has_no_difference(trained: Loaded, tmp_path):
    path = write_data(tmp_path, rows=12, conditions=1)
    examples, _ = source_of(trained, path)
    found = evaluate_model(
        trained.model,
        trained.params,
        None,
        trained.tokenizer,
        trained.config,
        {"held out": examples},
        answers=False,
    )
    (row,) = found.rows
    assert row.difference is None and row.mismatched is None
    assert "no mismatched condition" in row.verdict()
    assert row.none == pytest.approx(row.base)
