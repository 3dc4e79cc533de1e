"""Commands: one clear line and an exit code for what a user can mend, a traceback for a bug."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from megan_jax import commands
from megan_jax.commands import command_line, megan, run_command
from megan_jax.errors import UserError

ROOT = Path(commands.__file__).parents[1]


@pytest.fixture(autouse=True)
def logger_as_before(monkeypatch):
    logger = logging.getLogger("megan_jax")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    for name in ("MEGAN_TRACEBACK", *commands._QUIET):
        monkeypatch.delenv(name, raising=False)


def raising(error):
    def main(argv):
        raise error

    return main


def test_arguments_and_exit_codes_pass_through(capsys):
    seen = []
    assert run_command(seen.append, ("a", "b")) == 0
    assert seen == [["a", "b"]]
    assert run_command(lambda argv: 3, []) == 3
    assert run_command(raising(SystemExit(2)), []) == 2
    assert run_command(raising(SystemExit(None)), []) == 0
    assert capsys.readouterr() == ("", "")
    assert run_command(raising(SystemExit("stop here")), []) == 1
    assert capsys.readouterr().err == "error: stop here\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("data.jsonl:3: no field"), "error: data.jsonl:3: no field\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/x"),
            "error: /runs/x: no space left on the device. Free some space or write to another "
            "disk.\n",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/runs/x"),
            "error: /runs/x: the file system is read-only. Choose a folder that can be written.\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/x"),
            "error: /runs/x: permission denied. Change its permissions or choose another folder.\n",
        ),
    ],
)
def test_one_line_without_a_traceback(error, text, capsys, monkeypatch):
    assert run_command(raising(error), []) == 1
    assert capsys.readouterr() == ("", text)
    monkeypatch.setenv("MEGAN_TRACEBACK", "1")
    assert run_command(raising(error), []) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith(text)


def test_ctrl_c(capsys):
    assert run_command(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_bug_keeps_its_traceback():
    for bug in (KeyError("x"), FileNotFoundError(errno.ENOENT, "x", "y")):
        with pytest.raises(type(bug)) as caught:
            run_command(raising(bug), [])
        assert "bug in megan_jax" in caught.value.__notes__[0]


def test_environment_is_set_before_the_command_but_not_over_the_users(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    seen = {}
    run_command(lambda argv: seen.update(os.environ), [])
    assert seen["TF_CPP_MIN_LOG_LEVEL"] == "0" and seen["GRPC_VERBOSITY"] == "ERROR"


def run(*argv: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    options = {"capture_output": True, "text": True, "timeout": 60, "env": environment} | options
    return subprocess.run([sys.executable, *argv], **options)


def test_help_lists_every_command_with_one_line():
    for argv in ([], ["--help"], ["-h"], ["help"]):
        done = run("-m", "megan_jax", *argv)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        for name, (_, text) in commands.COMMANDS.items():
            assert f"  {name:10}{text}" in lines
        assert max(map(len, lines)) <= 100
    assert run("-m", "megan_jax", "--version").stdout.strip()


def test_an_unknown_command_suggests_the_nearest():
    done = run("-m", "megan_jax", "trian", "--workdir", "x")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "error: there is no command 'trian'. Did you mean 'train'? `megan --help` lists them all.\n"
    )


def test_a_command_is_imported_only_when_called(monkeypatch, tmp_path):
    (tmp_path / "fake_command.py").write_text("def main(argv):\n    return len(argv) + 40\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(commands.COMMANDS, "fake", ("fake_command", "a fake"))
    assert "fake_command" not in sys.modules
    assert megan(["fake", "a", "--b"]) == 42


def test_our_warnings_are_one_line():
    script = """
        import logging, sys
        from megan_jax.commands import run_command
        def main(argv):
            logging.getLogger("megan_jax.training.x").warning("the disk is %s", "slow")
            logging.getLogger("megan_jax").info("not shown")
        for _ in range(2):
            run_command(main, [])
    """
    done = run("-c", textwrap.dedent(script))
    assert done.stderr == "warning: the disk is slow\n" * 2 and done.stdout == ""


PRINT = """
    import sys
    from megan_jax.commands import run_command
    def main(argv):
        for number in range(100_000):
            print(number)
    sys.exit(run_command(main, []))
"""


def test_a_closed_pipe_is_silent():
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(textwrap.dedent(PRINT))} | head -n 1"
    script = ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}} >&2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "141\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("count", ["100_000", "1"])
def test_a_full_disk_behind_stdout(count):
    script = textwrap.dedent(PRINT).replace("100_000", count)
    with open("/dev/full", "w") as full:
        done = run("-c", script, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: output: no space left on the device. Free some space or write to another disk.\n"
    )


def test_what_launch_sh_started_goes_on_through_it(monkeypatch):
    monkeypatch.setenv("MEGAN_LAUNCHER", "/my code/launch.sh")
    line = command_line("train", ["--workdir", "runs/x"])
    assert shlex.split(line) == ["/my code/launch.sh", "train", "--workdir", "runs/x"]


def test_the_command_line_can_be_pasted():
    line = command_line("train", ["--config", "a b.py:x", "--workdir", "runs/$HOME"])
    assert line.startswith("python -m megan_jax.train ")
    assert shlex.split(line)[3:] == ["--config", "a b.py:x", "--workdir", "runs/$HOME"]
