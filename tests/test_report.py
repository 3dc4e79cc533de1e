"""The report of a whole run: evaluated, drawn and written by the train command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.runs import run_training

REPORT = ("--config.report.enabled=true", "--config.report.samples=2", "--config.train.steps=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return run_training(folder, "run", *REPORT, "--config.report.sample_tokens=4")


def test_the_report_shows_what_the_evaluation_found(run: Path):
    page = (run / "report.html").read_text()
    found = json.loads((run / "evaluation.json").read_text())
    (row,) = found["rows"]
    assert row["condition_type"] == "style"
    for value in (row["loss"]["matched"], row["loss"]["mismatched"], row["loss"]["base"]):
        assert f"{value:.3f}" in page
    # Loss curve and one heat map are drawn into the page, which needs no other file.
    assert page.count("<svg") >= 2
    assert not re.search(r"""(src|href|url\()\s*=?\s*["']?https?:""", page)
    for condition in ("say the first word", "now the second", "give me a third"):
        assert condition in page


def test_the_evaluation_counts_every_token_that_the_model_read(run: Path):
    found = json.loads((run / "evaluation.json").read_text())
    rows = 3 * found["rows"][0]["examples"]
    assert found["tokens"] > rows and found["facts"]["eval_tokens"] == found["tokens"]
    assert found["facts"]["train_tokens"] > 0 and found["facts"]["peak_memory_gb"] > 0


def test_a_fully_trained_model_is_compared_with_its_own_start(
    tmp_path_factory: pytest.TempPathFactory,
):
    folder = tmp_path_factory.mktemp("full")
    more = ("--config.train.steps=20", "--config.report.sample_tokens=4")
    run = run_training(folder, "run", *REPORT, *more, arg="full")
    (row,) = json.loads((run / "evaluation.json").read_text())["rows"]
    # Without a condition the trained model is not the base model any more.
    assert row["loss"]["base"] == pytest.approx(5.6, abs=0.4)
    assert row["loss"]["none"] < row["loss"]["base"] - 0.5
    assert "is frozen" not in (run / "report.html").read_text()
