"""Evaluations of data that is not as tidy as the suite."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import pytest

from megan_jax import config as configs
from megan_jax.data.example import Example, Message
from megan_jax.data.experiment import read_examples
from megan_jax.errors import UserError
from megan_jax.evaluation.run import Evaluation, evaluate_model, final_sources, loop_sources
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.loading import load_base
from megan_jax.models.model import Model


def example(kind: str, condition: str | None, answer: str = "alpha", **more) -> Example:
    messages = (Message("user", "Word?"), Message("assistant", answer))
    return Example(messages=messages, condition_type=kind, condition=condition, **more)


@pytest.fixture(scope="module")
def measure():
    base = load_base("tiny-random")
    model = Model(base.config, HypernetConfig(width=8, condition_length=16))
    params = {
        "target": base.params["target"],
        "hyper": jax.device_get(Model.init_hyper(model, jax.random.key(1))),
    }
    params = jax.tree.map(
        lambda x: getattr(x, "value", x), params, is_leaf=lambda x: hasattr(x, "value")
    )

    def run(examples: list[Example], **more) -> Evaluation:
        config = configs.get_default()
        config.data.row_length = 64
        config.data.condition_capacity = 32
        config.hypernet.condition_length = 16
        config.eval.batch_size = 4
        config.eval.resamples = 100
        config.eval.answer_tokens = 2
        for name, value in more.items():
            configs.set_key(config, name.replace("__", "."), value)
        return evaluate_model(
            model, params, None, base.tokenizer, config, {"mine": examples}, answers=True
        )

    return run


def test_rows_without_a_condition_leave_the_others_measurable(measure):
    found = measure([example("style", "one"), example("style", "one"), example("style", None)])
    (row,) = found.rows
    assert row.examples == 3 and row.mismatched is None and row.difference is None


def test_rows_without_any_condition_are_measured_as_the_base_model(measure):
    found = measure([example("style", None)] * 3)
    (row,) = found.rows
    assert row.matched == pytest.approx(row.base) and row.difference is None


def test_a_type_with_one_condition_stays_in_the_table(measure):
    mixed = [example("style", c) for c in ("one", "two", "one", "two")]
    found = measure([*mixed, example("domain", "only"), example("domain", "only")])
    rows = {row.condition_type: row for row in found.rows}
    assert rows["domain"].examples == 2 and rows["domain"].mismatched is None
    assert rows["style"].mismatched is not None


def test_rows_without_a_pair_are_counted(measure):
    found = measure([*(example("style", c) for c in ("one", "two") * 2), example("style", None)])
    (row,) = found.rows
    assert row.examples == 4 and row.failed == 1


def test_answers_under_the_only_condition_are_still_judged(measure):
    found = measure([example("task", "say alpha"), example("task", "say alpha")])
    accuracy = found.rows[0].accuracy
    assert accuracy is not None and accuracy.examples == 2
    assert accuracy.mismatched is None and accuracy.base is not None


def test_option_aware_takes_rows_without_options(measure):
    rows = [
        example("task", "say alpha"),
        example("task", "choose", "yes", options=("yes", "no")),
    ]
    found = measure(rows, eval__choice_mode="option_aware")
    assert found.rows[0].accuracy.examples == 2


def test_what_was_cut_is_said(measure):
    long = dataclasses.replace(
        example("style", "one"),
        messages=(Message("user", "Word?"), Message("assistant", "alpha " * 40)),
    )
    found = measure([long, example("style", "two")])
    assert any("longer than the row" in note for note in found.notes)
    assert found.record()["notes"] == list(found.notes)


def test_condition_keys_of_the_suite_leave_a_users_rows_alone(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    lines = []
    for mood in ("positive", "neutral", "negative"):
        answer = {"role": "assistant", "content": "alpha", "sentiment": mood}
        lines.append(json.dumps({"messages": [{"role": "user", "content": "Word?"}, answer]}))
    path.write_text("\n".join(lines))
    config = configs.get_default()
    config.data.conditions = ("positive", "negative")
    assert len(read_examples([str(path)], config)) == 3


def test_what_is_evaluated_follows_what_was_trained_on():
    config = configs.get_default()
    assert loop_sources(config) == ("suite:seen_validation",)
    assert final_sources(config) == ("suite:seen_test", "suite:unseen_test")
    config.data.train = ("mine.jsonl",)
    with pytest.raises(UserError, match=r"data\.eval"):
        loop_sources(config)
    config.data.eval = ("held_out.jsonl",)
    assert loop_sources(config) == final_sources(config) == ("held_out.jsonl",)
