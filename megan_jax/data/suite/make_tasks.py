"""Writes tasks.jsonl.gz, the suite's task rows, with reasoning-gym.

    pip install reasoning-gym==0.1.25        # builds one C extension: needs a compiler
    python -m megan_jax.data.suite.make_tasks

The rows are made twice, by processes with different hash seeds; a generator that doesn't give the
same rows both times is an error and has to leave `task_specs`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys

from megan_jax.data.suite.task_forms import TaskSpec
from megan_jax.data.suite.task_specs import SPECS
from megan_jax.data.suite.tasks import HASH_FILE, ROWS_FILE

VERSION = "0.1.25"
SEED = 20240517
ROWS_PER_TASK = 220
# A generator with few distinct entries, or many of another variant, is asked for up to this many.
MOST_ENTRIES = 2000
LONGEST_PROMPT, LONGEST_ANSWER = 160, 80


def make_rows(spec: TaskSpec) -> list[dict[str, str]]:
    """The rows of one task: distinct prompts, short prompts and answers."""
    import reasoning_gym

    entries = reasoning_gym.create_dataset(
        spec.generator, seed=SEED, size=MOST_ENTRIES, **spec.config
    )
    rows: dict[str, dict[str, str]] = {}
    for i in range(MOST_ENTRIES):
        entry = entries[i]
        prompt = spec.prompt(entry)
        if prompt is None or len(prompt) > LONGEST_PROMPT:
            continue
        answer = spec.answer(entry)
        if 0 < len(answer) <= LONGEST_ANSWER and prompt not in rows:
            rows[prompt] = {"task": spec.name, "prompt": prompt, "answer": answer}
        if len(rows) == ROWS_PER_TASK:
            break
    return list(rows.values())


def _print_rows() -> None:
    for spec in SPECS:
        for row in make_rows(spec):
            print(json.dumps(row, ensure_ascii=False))


def _in_process(hash_seed: str) -> str:
    command = [sys.executable, "-m", "megan_jax.data.suite.make_tasks", "--print"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, encoding="utf-8"
    )
    return result.stdout


def main(arguments: list[str]) -> int:
    """Writes the file and its hash; returns the exit status."""
    if arguments == ["--print"]:
        _print_rows()
        return 0
    first, second = _in_process("1"), _in_process("2")
    if first != second:
        pairs = zip(first.splitlines(), second.splitlines(), strict=False)
        unstable = sorted({json.loads(a)["task"] for a, b in pairs if a != b})
        print(f"Not deterministic, leave out: {', '.join(unstable)}", file=sys.stderr)
        return 1
    packed = gzip.compress(first.encode("utf-8"), compresslevel=9, mtime=0)
    ROWS_FILE.write_bytes(packed)
    digest = hashlib.sha256(packed).hexdigest()
    HASH_FILE.write_text(f"{digest}  {ROWS_FILE.name}\n", encoding="utf-8")
    print(f"{ROWS_FILE}: {len(first.splitlines())} rows, {len(packed)} bytes, SHA-256 {digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
