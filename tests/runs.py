"""A data file, an experiment file and short runs that the tests of the commands share."""

from __future__ import annotations

import json
from pathlib import Path

from megan_jax.train import main as train

# The condition alone decides which word is right; the prompts are the same.
ANSWERS = {"say the first word": "alpha", "now the second": "beta", "give me a third": "gamma"}

EXPERIMENT = """
from megan_jax.config import get_default

def get_config(arg=""):
    config = get_default()
    config.model = "tiny-random"
    config.data.train = ({data!r},)
    config.data.eval = ({data!r},)
    config.data.cache_dir = {cache!r}
    config.data.row_length = 96
    config.data.condition_capacity = 64
    config.hypernet.width = 16
    config.hypernet.condition_length = 24
    config.train.batch_size = 8
    config.train.steps = 6
    config.train.log_every = 1
    config.train.checkpoint_every = 3
    config.eval.batch_size = 8
    config.eval.answers = False
    config.optimizer.learning_rate = 1e-2
    if arg == "full":
        config.train.trainable = (".*",)
    return config
"""


def write_data(
    folder: Path, rows: int = 24, *, first: int = 0, conditions: int = len(ANSWERS)
) -> Path:
    """A messages file with style conditions, `data.jsonl` in the folder.

    Args:
      folder: where it is written.
      rows: how many.
      first: number in the first prompt; every condition has the same prompts.
      conditions: how many different ones.
    """
    path = folder / "data.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            condition = list(ANSWERS)[i % conditions]
            answer = {"role": "assistant", "content": ANSWERS[condition], "style": condition}
            user = {"role": "user", "content": f"Word {first + i // conditions}?"}
            file.write(json.dumps({"messages": [user, answer]}) + "\n")
    return path


def write_experiment(folder: Path, rows: int = 24) -> Path:
    """An experiment file with its data beside it."""
    data = write_data(folder, rows)
    path = folder / "experiment.py"
    path.write_text(EXPERIMENT.format(data=str(data), cache=str(folder / "cache")))
    return path


def run_training(folder: Path, name: str, *more: str, arg: str = "") -> Path:
    """Trains in-process; returns the run folder."""
    experiment = folder / "experiment.py"
    if not experiment.exists():
        write_experiment(folder)
    workdir = folder / name
    config = f"{experiment}:{arg}" if arg else str(experiment)
    assert train(["--config", config, "--workdir", str(workdir), *more]) == 0
    return workdir
