"""The reference's metrics, reproduced on its recorded predictions under the compat arguments."""

from __future__ import annotations

import json

import pytest

from megan_jax.evaluation import choice, maths
from megan_jax.evaluation.metrics import generation_metrics

# The name of a metric in the recording, and ours.
NAMES = {
    "rouge_l": "rouge_l",
    "bleu_2": "bleu_2",
    "distinct_1_char": "distinct_1",
    "distinct_2_char": "distinct_2",
    "zipf": "zipf",
}


@pytest.fixture
def recorded(part) -> dict:
    return json.loads(part("metrics.json").read_text("utf-8"))


def section(recorded: dict, name: str):
    if not recorded.get(name):
        pytest.skip(f"metrics.json has no part {name!r}: that part of the comparison was not run")
    return recorded[name]


def test_generation_metrics_equal_the_recording(recorded):
    for case in section(recorded, "generation"):
        ours = generation_metrics(case["predictions"], case["references"], compat=True)
        recorded_values = {NAMES[name]: case[name] for name in NAMES if name in case}
        assert recorded_values
        for name, value in recorded_values.items():
            assert ours[name] == pytest.approx(value, abs=1e-12), name


def test_choice_modes_equal_the_recording(recorded):
    part = section(recorded, "choice")
    for case in part["modes"]:
        ours = choice.score_choice(part["predictions"], part["references"], mode=case["mode"])
        assert ours == [int(value) for value in case["results"]], case["mode"]


def test_maths_scorer_equals_the_recording(recorded):
    part = section(recorded, "math")
    ours = maths.score_maths(part["predictions"], part["references"], mode="reference")
    assert ours == [int(value) for value in part["results"]]
