"""The hypernetwork that comes with the package: whole, small, and what its README says."""

from __future__ import annotations

import json

import jax
import pytest
from safetensors.numpy import load_file

from megan_jax import config as configs
from megan_jax.loading import PRETRAINED, PRETRAINED_RUN, WEIGHTS_FILE, load_model
from megan_jax.models.config import PRESETS
from megan_jax.models.model import Model
from megan_jax.pretrained import generate_text

INFO = json.loads((PRETRAINED_RUN / "run.json").read_text())
CONFIG = configs.from_json(INFO["config"], "run.json")


def test_the_weights_are_those_of_its_configuration():
    path = PRETRAINED_RUN / WEIGHTS_FILE
    assert path.stat().st_size < 1_000_000 and CONFIG.hypernet.width == 64
    model = Model(PRESETS["smollm2-135m"], configs.hypernet_config(CONFIG))
    wanted = {
        ".".join(key.key for key in keys): leaf.shape
        for keys, leaf in jax.tree_util.tree_flatten_with_path(model.abstract())[0]
        if keys[0].key == "hyper"
    }
    assert {name: value.shape for name, value in load_file(path).items()} == wanted


def test_its_configuration_is_that_of_its_experiment_file():
    made = configs.load("experiments/pretrained.py", [])
    for section in ("hypernet", "compat", "tokenizer", "train", "optimizer"):
        assert configs.to_json(made)[section] == INFO["config"][section]


def test_its_readme_says_what_was_measured():
    found = json.loads((PRETRAINED_RUN / "evaluation.json").read_text())
    page = (PRETRAINED_RUN / "README.md").read_text()
    assert found["finding"]["holds"]
    for row in found["rows"]:
        gap = row["matched_minus_mismatched"]
        for number in (row["loss"]["base"], row["loss"]["matched"], row["loss"]["mismatched"]):
            assert f"{number:.3f}" in page, row["condition_type"]
        assert f"{gap['mean']:+.3f}".replace("-", "\u2212") in page, row["condition_type"]


@pytest.mark.network
def test_the_same_prompt_is_answered_differently_under_different_conditions():
    loaded = load_model(PRETRAINED)
    conditions = (
        "Milton's epic blank verse: lofty seventeenth-century lines of Heaven, Hell and angels.",
        "Write like the headline writer of a daily paper.",
        None,
    )
    answers = {
        generate_text(
            loaded.model,
            loaded.params,
            loaded.tokenizer,
            "Write a few lines.",
            condition,
            max_new_tokens=12,
            chat_template=loaded.config.tokenizer.chat_template,
        )
        for condition in conditions
    }
    assert len(answers) == len(conditions)
