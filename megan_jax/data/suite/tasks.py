"""Loads the committed task rows and the descriptions of their tasks."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

from megan_jax.data.suite.splits import Row
from megan_jax.data.suite.task_specs import SPECS
from megan_jax.errors import UserError

ROWS_FILE = Path(__file__).with_name("tasks.jsonl.gz")
HASH_FILE = Path(__file__).with_name("tasks.sha256.txt")


def load(path: Path = ROWS_FILE) -> tuple[list[Row], dict[str, tuple[str, ...]]]:
    """Returns (the rows, task -> its descriptions).

    Raises:
      UserError: the file is missing or isn't the one whose hash was committed.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise UserError(f"Can't read the suite's tasks {path}: {error.strerror}.") from None
    wanted = HASH_FILE.read_text(encoding="utf-8").split()[0]
    if hashlib.sha256(packed).hexdigest() != wanted:
        raise UserError(
            f"{path} doesn't have the SHA-256 {wanted} of {HASH_FILE.name}. Restore the file, or"
            " write it anew with `python -m megan_jax.data.suite.make_tasks`."
        )
    specs = {spec.name: spec for spec in SPECS}
    rows = []
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        item = json.loads(line)
        task, prompt, answer = item["task"], item["prompt"], item["answer"]
        # One prompt under two tasks is wanted: only the condition tells them apart.
        identity = f"{task}\n{prompt}"
        rows.append(Row(task, prompt, answer, identity, (identity,), specs[task].options))
    return rows, {name: spec.wordings for name, spec in specs.items()}
