"""The evaluate command on run folders, base models and users' files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from megan_jax import evaluate
from megan_jax.errors import UserError
from tests.runs import run_training, write_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return run_training(folder, "run", "--config.train.steps=2")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    (folder / "held").mkdir()
    return write_data(folder / "held", rows=18, first=500)


def measure(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert evaluate.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_folder_is_measured_and_keeps_the_result(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    found = measure(capsys, "--workdir", str(run), f"--config.data.eval={data}")
    (row,) = found["rows"]
    assert row["condition_type"] == "style" and row["examples"] == 18
    assert set(row["loss"]) == {"base", "matched", "mismatched", "none"}
    # Without a condition a run that trains the hypernetwork only is the base model.
    assert row["loss"]["none"] == row["loss"]["base"] != row["loss"]["matched"]
    assert row["matched_minus_mismatched"]["low"] <= row["matched_minus_mismatched"]["high"]
    assert found["tokens"] > 0 and found["dropped"] == 0
    assert json.loads((run / "evaluation.json").read_text()) == found
    # Other data says nothing about the run's own result.
    other = measure(capsys, "--workdir", str(run), "--data", str(data), "--config.seed=1")
    assert other != found and json.loads((run / "evaluation.json").read_text()) == found


def test_the_table_names_types_and_says_what_it_means(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    assert evaluate.main(["--workdir", str(run), "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "style" in shown and "matched − mismatched" in shown and "95 % interval" in shown


def test_answers_are_generated_where_there_are_any(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    for row in rows:
        row["task_description"] = row["messages"][1].pop("style")
        row["options"] = ["alpha", "beta", "gamma"]
    path = folder / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    more = ("--config.eval.answers=true", "--config.eval.answer_limit=3")
    found = measure(
        capsys, "--workdir", str(run), "--data", str(path), *more, "--config.eval.answer_tokens=3"
    )
    accuracy = found["rows"][0]["accuracy"]
    assert accuracy["examples"] == 3 and 0 <= accuracy["matched"] <= 1


def test_a_base_model_has_one_loss(data: Path, capsys: pytest.CaptureFixture[str]):
    found = measure(capsys, "--model", "tiny-random", "--data", str(data))
    (row,) = found["rows"]
    assert row["loss"]["mismatched"] is None and row["matched_minus_mismatched"] is None
    assert row["loss"]["base"] == row["loss"]["none"] == pytest.approx(5.6, abs=0.4)


def test_the_same_evaluation_gives_the_same_numbers(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ("--workdir", str(run), "--data", str(data))
    assert measure(capsys, *arguments) == measure(capsys, *arguments)


def test_the_batch_size_changes_the_speed_alone(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ("--workdir", str(run), "--data", str(data))
    one = measure(capsys, *arguments)["rows"][0]["loss"]
    # Three rows do not divide over eight devices: the batch is rounded up.
    two = measure(capsys, *arguments, "--config.eval.batch_size=3")["rows"][0]["loss"]
    assert two == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir", "/nowhere"], "/nowhere"),
        (["--model", "/nowhere"], "no such file or folder"),
        (["--model", "tiny-random", "--data", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--workdir", "RUN", "--config.data.eval="], "is no evaluation data"),
        (["--model", "tiny-random", "--data", "suite:seen"], "the suite has the splits"),
        (["--workdir", "RUN", "--config.hypernet.width=8"], "can't be changed"),
        (["--workdir", "RUN", "--config.dtype=bfloat16"], "can't be changed"),
        (["--model", "tiny-random", "--config.eval.batch=2"], "eval.batch_size"),
        (["--model", "tiny-random", "--config.eval.batch_size"], "needs a value"),
    ],
)
def test_bad_input_is_one_message(run: Path, arguments: list[str], message: str):
    with pytest.raises(UserError) as error:
        evaluate.main([str(run) if a == "RUN" else a for a in arguments])
    assert message in str(error.value)


def test_a_run_on_another_base_model_is_refused(run: Path, data: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    info = json.loads((copy / "run.json").read_text())
    info["fingerprints"]["base_model"]["fingerprint"] = "another"
    (copy / "run.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="belongs to another base model"):
        evaluate.main(["--workdir", str(copy), "--data", str(data)])
