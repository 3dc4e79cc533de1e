"""Run folders and models as they come back from disk, and the public way in and out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import megan_jax
from megan_jax import loading
from megan_jax.errors import UserError
from tests.runs import run_training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(tmp_path_factory.mktemp("loading"), "run", "--config.train.steps=3")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def same(one, two) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, two)))


def test_the_weights_file_stands_in_for_the_checkpoints(run: Path, copy: Path):
    shutil.rmtree(copy / "checkpoints")
    assert same(loading.load_run(copy).params, loading.load_run(run).params)


def test_a_run_folder_remembers_what_was_trained(run: Path):
    loaded = loading.load_model(run)
    assert not loaded.changes_base
    assert loaded.trained and all(name.startswith("hyper/") for name in loaded.trained)
    assert loaded.config.train.steps == 3


@pytest.mark.parametrize("damage", ["absent", "truncated", "narrow", "missing"])
def test_damaged_weights_are_refused(copy: Path, damage: str):
    shutil.rmtree(copy / "checkpoints")
    path = copy / loading.WEIGHTS_FILE
    tensors = load_file(path)
    name = next(iter(tensors))
    if damage == "absent":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "narrow":
        save_file({**tensors, name: tensors[name][..., :-1].copy()}, path)
    else:
        save_file({k: v for k, v in tensors.items() if k != name}, path)
    with pytest.raises(UserError) as error:
        loading.load_run(copy)
    assert str(copy) in str(error.value)
    if damage in ("narrow", "missing"):
        assert name.replace(".", "/") in str(error.value)


def test_a_folder_without_a_run_says_so(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError) as error:
            loading.load_run(path)
        assert str(path) in str(error.value)


def test_a_run_file_that_is_no_json_is_named(copy: Path):
    (copy / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json"):
        loading.load_run(copy)


def test_a_model_moved_away_is_named(copy: Path):
    info = json.loads((copy / "run.json").read_text())
    info["config"]["model"] = "/nowhere/model"
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="/nowhere/model"):
        loading.load_run(copy)


def test_the_public_functions_load_speak_and_save(run: Path, tmp_path: Path):
    model, params = megan_jax.from_pretrained(run)
    tokenizer = megan_jax.load_tokenizer(run / "tokenizer")
    ask = dict(max_new_tokens=5)
    steered = megan_jax.generate_text(model, params, tokenizer, "Word 1?", "say it", **ask)
    assert isinstance(steered, str)
    target = tmp_path / "reference"
    megan_jax.save_pretrained(model, params, target, "megan-torch")
    again, again_params = megan_jax.from_pretrained(target)
    assert same(again_params["target"], params["target"])
    assert (
        megan_jax.generate_text(again, again_params, tokenizer, "Word 1?", "say it", **ask)
        == steered
    )
    with pytest.raises(UserError, match="gives no tokens"):
        megan_jax.generate_text(model, params, tokenizer, "Word 1?", "", **ask)
    with pytest.raises(UserError, match="Did you mean 'hf'\\?"):
        megan_jax.save_pretrained(model, params, tmp_path / "x", "hff")


def test_a_model_without_a_hypernetwork_takes_no_condition():
    model, params = megan_jax.from_pretrained("tiny-random")
    tokenizer = loading.load_base("tiny-random").tokenizer
    with pytest.raises(UserError, match="no hypernetwork"):
        megan_jax.generate_text(model, params, tokenizer, "hello", "kindly", max_new_tokens=2)


def test_the_public_tokenizer_takes_the_names_that_models_have(run: Path):
    own = megan_jax.load_tokenizer("tiny-random")
    assert own.encode("hello") == megan_jax.load_tokenizer(run).encode("hello")
    with pytest.raises(UserError, match="/nowhere"):
        megan_jax.load_tokenizer("/nowhere")


def test_a_condition_that_is_cut_is_said(run: Path, caplog: pytest.LogCaptureFixture):
    model, params = megan_jax.from_pretrained(run)
    tokenizer = megan_jax.load_tokenizer(run)
    with caplog.at_level("WARNING", "megan_jax"):
        megan_jax.generate_text(model, params, tokenizer, "Word?", "say " * 40, max_new_tokens=1)
    assert "cut to its first 24 tokens" in caplog.text
