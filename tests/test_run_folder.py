"""Run folders: what is written, what is refused, and by which message."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from megan_jax import config as configs
from megan_jax import run_folder
from megan_jax.errors import UserError

ROOT = Path(run_folder.__file__).parents[1]
FINGERPRINTS = {
    "base_model": {"source": "models/a", "fingerprint": "aaaa"},
    "data": {"source": "suite", "fingerprint": "dddd"},
}


def make(path, **changes):
    config = configs.load("", [f"{key}={value}" for key, value in changes.items()])
    return run_folder.create(path, config=config, argv=["--x", "1"], fingerprints=FINGERPRINTS)


def test_create_writes_what_open_reads(tmp_path):
    made = make(tmp_path / "a" / "b", seed=7)
    text = made.path.joinpath("run.json").read_text()
    run = run_folder.open(tmp_path / "a" / "b")
    assert run == made
    assert json.loads(text) == run.info
    assert run.config == configs.to_json(configs.load("", ["seed=7"]))
    assert run.info["argv"] == ["--x", "1"]
    assert run.info["fingerprints"] == FINGERPRINTS
    assert run.info["format"] == 1 and run.info["package_version"]
    assert set(run.info["git"]) == {"revision", "dirty"}
    assert sorted(p.name for p in run.path.iterdir()) == [".lock", "run.json"]
    names = [run.metrics, run.tensorboard, run.checkpoints, run.tokenizer, run.report]
    assert [p.relative_to(run.path).as_posix() for p in names] == [
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "tokenizer",
        "report.html",
    ]


def test_create_refuses_a_run_and_foreign_files(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        make(tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not a run folder: .* contains thesis\.txt"):
        make(tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".lock").write_text("")  # left by a start that was killed
    make(tmp_path / "empty")


def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        run_folder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a run folder: it has no run\.json"):
        run_folder.open(tmp_path)
    file = tmp_path / "run.json"
    for content, message in [
        ('{"format": 1, "con', r"run\.json is damaged"),
        (b"\xff\xfe", r"run\.json is damaged"),
        ("[]", "has no configuration"),
        (
            '{"format": 99, "config": {}, "package_version": "7"}',
            r"format 99.*version.*wrote it: 7",
        ),
    ]:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=message):
            run_folder.open(tmp_path)


def test_a_path_through_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run.*not a folder"):
        make(tmp_path / "file" / "run")


def resume(path, fingerprints=FINGERPRINTS, **changes):
    config = configs.load("", [f"{key}={value}" for key, value in changes.items()])
    return run_folder.create_or_resume(path, config=config, argv=[], fingerprints=fingerprints)


def test_the_same_command_starts_and_goes_on(tmp_path):
    run, existed = resume(tmp_path / "r")
    assert not existed
    before = (tmp_path / "r" / "run.json").read_text()
    again, existed = resume(tmp_path / "r")
    assert existed and again == run
    assert (tmp_path / "r" / "run.json").read_text() == before


def test_a_resumed_run_may_change_how_long_it_trains_and_how_it_is_watched(tmp_path):
    resume(tmp_path / "r")
    changes = {
        "train.steps": 9999,
        "train.log_every": 1,
        "train.checkpoint_every": 7,
        "eval.batch_size": 2,
        "report.enabled": "true",
        "mesh.tensor": 2,
    }
    assert resume(tmp_path / "r", **changes)[1]
    for name in run_folder.MAY_CHANGE_ON_RESUME:
        keys = configs.flatten(configs.get_default())
        assert any(k == name or k.startswith(name.removesuffix("*")) for k in keys), name


def test_every_other_difference_is_named_with_both_values(tmp_path):
    resume(tmp_path / "r")
    with pytest.raises(UserError) as caught:
        resume(tmp_path / "r", **{"seed": 3, "hypernet.width": 32, "train.steps": 5})
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'r'} was started with another configuration:",
        "  hypernet.width: 64 in the run, 32 now",
        "  seed: 0 in the run, 3 now",
        "Go on with the run's own values, or choose another --workdir.",
    ]


def test_a_key_of_another_version_is_absent(tmp_path):
    run, _ = resume(tmp_path / "r")
    run.info["config"]["train"]["old_key"] = 1
    run_folder.write_json(run.path / "run.json", run.info)
    with pytest.raises(UserError, match=r"train\.old_key: 1 in the run, absent now"):
        resume(tmp_path / "r")


def test_another_base_model_is_named_with_both_fingerprints(tmp_path):
    resume(tmp_path / "r")
    other = {**FINGERPRINTS, "base_model": {"source": "models/b", "fingerprint": "bbbb"}}
    with pytest.raises(UserError) as caught:
        resume(tmp_path / "r", fingerprints=other)
    for text in ("another base model", "models/a", "aaaa", "models/b", "bbbb"):
        assert text in str(caught.value)


def test_what_was_never_fingerprinted_does_not_pass(tmp_path):
    with pytest.raises(UserError, match=r"another tokenizer.*made with unknown"):
        run_folder.check_fingerprints(
            {}, {"tokenizer": {"source": "t", "fingerprint": "tttt"}}, "here"
        )


def test_write_json_keeps_the_old_file_when_the_write_fails(tmp_path, monkeypatch):
    file = tmp_path / "x.json"
    run_folder.write_json(file, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"x\.json: no space left on the device"):
        run_folder.write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_plain_values():
    value = {
        "a": (1, 2.5),
        3: Path("x/y"),
        "n": np.float32(0.5),
        "i": np.int64(4),
        "b": np.bool_(1),
    }
    assert run_folder.plain(value) == {
        "a": [1, 2.5],
        "3": "x/y",
        "n": 0.5,
        "i": 4,
        "b": True,
    }
    assert run_folder.plain([float("inf"), float("nan"), None]) == ["inf", "nan", None]
    assert run_folder.plain(configs.get_default()) == configs.to_json(configs.get_default())
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        run_folder.plain({"x": object()})


def git(path, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(path), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_state(tmp_path, monkeypatch):
    unknown = {"revision": "unknown", "dirty": None}
    assert run_folder.git_state(tmp_path) == unknown
    git(tmp_path, "init", "-q")
    assert run_folder.git_state(tmp_path) == unknown  # no commit yet
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "f").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert run_folder.git_state(tmp_path) == {"revision": head, "dirty": False}
    (tmp_path / "inner" / "f").write_text("2")
    assert run_folder.git_state(tmp_path) == {"revision": head, "dirty": True}
    assert run_folder.git_state(tmp_path / "inner") == unknown  # somebody else's repository
    monkeypatch.setenv("PATH", "")
    assert run_folder.git_state(tmp_path) == unknown


HOLD = """
    import sys
    from megan_jax import run_folder
    with run_folder.lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    run = make(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"in use by another process \(pid {holder.pid} on "):
        run.lock().__enter__()
    (run.path / "run.json").unlink()
    with pytest.raises(UserError, match="in use by another process"):
        make(run.path)
    holder.kill()  # however it ends, the lock is gone
    holder.communicate()
    with run.lock(), pytest.raises(UserError, match=f"pid {os.getpid()} on"):
        run.lock().__enter__()
    with run.lock():
        pass


def test_explain_os_error():
    explain = run_folder.explain_os_error
    full = OSError(errno.ENOSPC, "No space left on device", "/a/b")
    assert explain(full).startswith("/a/b: no space left")
    assert explain(OSError(errno.EACCES, "x"), "/c").startswith("/c: permission denied")
    assert explain(OSError(errno.EROFS, "x")).startswith("output: the file system is read-only")
    assert explain(OSError(errno.ENOENT, "x", "/a")) is None
    with pytest.raises(FileNotFoundError), run_folder.user_errors("x"):
        raise FileNotFoundError(errno.ENOENT, "x")
