"""`python -m megan_jax.data check FILE`: what it prints and how it exits."""

import json
import subprocess
import sys

import pytest

from megan_jax.data.__main__ import main

GOOD = {
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    "domain": "d",
}


def write(folder, *lines: bytes):
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def good(**changes) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_good_file_is_counted(tmp_path, capsys):
    task = json.dumps({"messages": GOOD["messages"], "task_description": "t"}).encode()
    path = write(tmp_path, good(), task, good())
    assert main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 3 rows, no problems (domain 2, task 1)\n"


def test_every_problem_has_its_line_and_field(tmp_path, capsys):
    path = write(
        tmp_path, good(), b"{", b"\xff", good(context=3, domian="x"), b"", good(domain=""), good()
    )
    assert main(["check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0].rsplit(":")[-1] for line in lines[:-1]] == list("234456")
    assert lines[0].startswith(f"{path}:2: not valid JSON at column 2")
    assert lines[1].startswith(f"{path}:3: is not UTF-8 (byte 1 of the line)")
    assert lines[2].startswith(f"{path}:4: domian: unknown field. Did you mean 'domain'")
    assert lines[3] == f"{path}:4: context: is a number, not text."
    assert lines[4] == f"{path}:5: is an empty line; remove it."
    assert lines[5].startswith(f"{path}:6: domain: is empty")
    assert lines[6] == f"{path}: 6 problems in 5 of 7 lines"


def test_an_empty_file_is_a_problem(tmp_path, capsys):
    assert main(["check", str(write(tmp_path))]) == 1
    assert "the file is empty" in capsys.readouterr().out


def test_the_type_may_be_given(tmp_path, capsys):
    path = write(tmp_path, good(task_description="t"))
    assert main(["check", str(path)]) == 1
    assert main(["check", str(path), "--condition-type", "domain"]) == 0
    assert "(domain 1)" in capsys.readouterr().out


def test_a_missing_file(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.jsonl")]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and "No such file" in printed.err


@pytest.mark.parametrize("status, line", [(0, good()), (1, b"{")])
def test_the_command_line(tmp_path, status, line):
    path = write(tmp_path, line)
    command = [sys.executable, "-m", "megan_jax.data", "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert str(path) in done.stdout and "Traceback" not in done.stderr
