"""The train command end to end, on a random model and a few rows."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from megan_jax.errors import UserError
from megan_jax.train import main, split_overrides
from megan_jax.training.metric_writers import read_metrics
from tests.runs import run_training, write_experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_experiment(folder)
    return folder


@pytest.fixture(scope="module")
def straight(folder: Path) -> Path:
    return run_training(folder, "straight", "--config.train.eval_every=3")


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r]


def test_a_run_leaves_what_its_users_expect(straight: Path):
    info = json.loads((straight / "run.json").read_text())
    assert info["config"]["train"]["steps"] == 6
    assert set(info["fingerprints"]) == {"base_model", "tokenizer", "data"}
    for name in ("metrics.jsonl", "weights.safetensors", "tokenizer/tokenizer.json"):
        assert (straight / name).is_file(), name
    assert any((straight / "tensorboard").iterdir())
    assert {p.name for p in (straight / "checkpoints").iterdir() if p.name.isdigit()} == {"3", "6"}


def test_the_metrics_tell_what_happened(straight: Path):
    records = read_metrics(straight / "metrics.jsonl")
    steps = [r for r in records if "loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5, 6]
    assert all(r["tokens"] > 0 and r["labels"] > 0 and r["grad_norm"] > 0 for r in steps)
    assert steps[-1]["tokens_seen"] == sum(r["tokens"] for r in steps)
    evaluated = [r for r in records if any(k.startswith("eval/") for k in r)]
    assert [r["step"] for r in evaluated] == [3, 6]
    name = next(k for k in evaluated[-1] if k.endswith("style/matched"))
    assert evaluated[-1][name] < evaluated[0][name]


def test_an_interrupted_run_goes_on_with_the_same_losses(folder: Path, straight: Path):
    # One uninterrupted command against one that stops after three of six steps.
    halves = folder / "halves"
    experiment = str(folder / "experiment.py")
    command = [sys.executable, "-m", "megan_jax.train", "--config", experiment]
    process = subprocess.Popen(
        [*command, "--workdir", str(halves), "--config.train.eval_every=3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    rest, _ = process.communicate(timeout=120)
    output = "".join(lines) + rest
    assert process.returncode == 0, output
    assert "Traceback" not in output
    found = re.search(r"SIGTERM: saved step (\d+) of 6. Go on with:\n  python -m (\S+) ", output)
    assert found and found[2] == "megan_jax.train", output
    assert int(found[1]) < 6
    assert (
        main(["--config", experiment, "--workdir", str(halves), "--config.train.eval_every=3"]) == 0
    )
    assert losses(halves) == losses(straight)
    one, two = (load_file(run / "weights.safetensors") for run in (straight, halves))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_running_a_finished_run_again_changes_nothing(folder: Path, straight: Path):
    before = (straight / "metrics.jsonl").read_text()
    run_training(folder, "straight", "--config.train.eval_every=3")
    assert (straight / "metrics.jsonl").read_text() == before


def test_microbatches_give_the_same_run(folder: Path, straight: Path):
    # Two microbatches of eight rows each on the eight devices.
    one = run_training(folder, "whole", "--config.train.batch_size=16")
    two = run_training(
        folder, "parts", "--config.train.batch_size=16", "--config.train.microbatches=2"
    )
    np.testing.assert_allclose(losses(two), losses(one), rtol=2e-6)


def test_a_run_does_not_go_on_under_another_configuration(folder: Path, straight: Path):
    with pytest.raises(UserError) as error:
        run_training(folder, "straight", "--config.hypernet.width=32")
    assert "hypernet.width: 16 in the run, 32 now" in str(error.value)


def test_full_fine_tuning_is_a_matter_of_the_filter(folder: Path):
    run = run_training(folder, "full", arg="full")
    names = load_file(run / "weights.safetensors")
    assert "target.layers.mlp.gate_proj.kernel" in names
    assert "hyper.query_proj.kernel" in names


def test_frozen_layer_embeddings_keep_their_start_and_stay_with_the_run(folder: Path):
    run = run_training(folder, "frozen", "--config.compat.freeze_layer_embeddings=true")
    free = run_training(folder, "free", "--config.train.steps=1")
    frozen = load_file(run / "weights.safetensors")["hyper.layer_embeddings.embedding"]
    moved = load_file(free / "weights.safetensors")["hyper.layer_embeddings.embedding"]
    # The first step of the warm-up has learning rate 0, so `free` still holds the start.
    np.testing.assert_array_equal(frozen, moved)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.train.step=3"], "Did you mean 'train.steps'?"),
        (["--config.train.steps=three"], "expected an integer"),
        (["--config.train.batch_size=6"], "use a multiple of 8, for example 8"),
        (["--config.train.trainable=nothing"], "matches no parameter"),
        (["--config.train.trainable=("], "config.train.trainable"),
        (["--config.model=/nowhere"], "there is no such file or folder"),
        (["--config.data.train=/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--config.data.types=task"], "no example of the condition types task"),
        (["--config.hypernet_from=tiny-random"], "has no hypernetwork"),
        (["--config.data.on_long=error", "--config.data.row_length=16"], "longer than the row"),
    ],
)
def test_bad_input_is_one_message(folder: Path, more: list[str], message: str):
    with pytest.raises(UserError) as error:
        run_training(folder, "bad", *more)
    assert message in str(error.value)
    assert not (folder / "bad").exists()


def test_a_wrong_experiment_file_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match="there is no experiment file"):
        main(["--config", str(folder / "experimnt.py"), "--workdir", str(tmp_path / "x")])


def test_overrides_are_taken_with_and_without_an_equals_sign():
    others, overrides = split_overrides(
        ["--workdir", "w", "--config.a.b=1", "--config.c", "2", "--config", "f.py", "--config.d"]
    )
    assert others == ["--workdir", "w", "--config", "f.py"]
    assert overrides == ["a.b=1", "c=2", "d"]


def test_a_locked_folder_is_refused(folder: Path, straight: Path):
    from megan_jax import run_folder

    began = time.monotonic()
    with run_folder.open(straight).lock(), pytest.raises(UserError, match="pid"):
        run_training(folder, "straight", "--config.train.eval_every=3")
    assert time.monotonic() - began < 60
