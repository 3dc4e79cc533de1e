"""launch.sh against stand-ins for Python, pip, nvidia-smi and df that record what they are told."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TOOLS = ("awk", "bash", "cat", "chmod", "cksum", "dirname", "env", "grep", "ls", "mkdir", "rm")
TOOLS += ("sed", "sleep", "tail", "touch", "uname")

# Its version, and whether it has venv, come from the file PYTHON.says beside the stand-in.
FAKE_PYTHON = r"""#!/usr/bin/env bash
says="$(cat "$0.says")"
case "$*" in
  -c*) echo "$says" ;;
  "-m venv "*)
    mkdir -p "$3/bin" && cat "$0" >"$3/bin/python" && echo "$says" >"$3/bin/python.says"
    chmod +x "$3/bin/python"
    echo "venv" >>"$CALLS" ;;
  "-m pip --version") ;;
  "-m pip install "*)
    echo "$*" >>"$CALLS"
    echo "${FAKE_PIP_SAYS:-}"
    if [ -n "${FAKE_PIP_HANGS:-}" ]; then touch "$CALLS.pip"; sleep 60; fi
    exit "${FAKE_PIP_EXIT:-0}" ;;
  *)
    echo "[$PWD] $*" >>"$CALLS"
    if [ -n "${FAKE_TRAINING:-}" ]; then
      trap 'echo "saved on INT" >>"$CALLS"; exit 130' INT
      trap 'echo "saved on TERM" >>"$CALLS"; exit 143' TERM
      touch "$CALLS.training"
      # A shell that waits in the foreground drops a SIGINT at which its child ends by itself.
      while :; do sleep 0.2 & wait $!; done
    fi
    for word in ${FAKE_FAILS:-}; do case " $* " in *" $word "*) exit 3 ;; esac; done ;;
esac
exit 0
"""


class Machine:
    """A machine with only the given programs, and a checkout of the launch files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path, f"{tool} is missing on this machine"
            (self.bin / tool).symlink_to(path)
        self.program("df", "echo Filesystem; echo map auto_home 100000000 1 90000000 1% /")
        self.repository = folder / "a folder" / "megan jax"
        self.repository.mkdir(parents=True)
        for name in ("launch.sh", "constraints"):
            source = REPOSITORY / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, self.repository / name)
        for source in REPOSITORY.glob("requirements*.txt"):
            shutil.copy2(source, self.repository)
        self.venv = self.repository / ".venv"
        self.calls_file = folder / "calls"
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "CALLS": str(self.calls_file),
        }

    def program(self, name: str, body: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def python(self, name: str = "python3", says: str = "3.12 venv linux x86_64") -> Path:
        path = self.program(name, "")
        path.write_text(FAKE_PYTHON)
        path.with_name(f"{name}.says").write_text(says)
        return path

    def start(self, *arguments: str, cwd: Path | None = None, **environment: str):
        return subprocess.Popen(
            [str(self.repository / "launch.sh"), *arguments],
            cwd=cwd or self.folder,
            env=self.environment | environment,
            # A run in the background ignores SIGINT, and its children could not hear it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def launch(self, *arguments: str, code: int = 0, cwd: Path | None = None, **environment: str):
        """Runs launch.sh, checks its exit code, returns (stdout, stderr)."""
        process = self.start(*arguments, cwd=cwd, **environment)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out, err

    def calls(self) -> list[str]:
        """What the stand-ins were told since the last call of this."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return lines

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 20
        while not self.calls_file.with_name(f"calls.{name}").exists():
            assert time.monotonic() < deadline, f"{name} never started"
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    yield Machine(tmp_path)


def error_of(result: tuple[str, str]) -> str:
    """The one error message of a run."""
    errors = [line for line in result[1].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result[1]
    return errors[0]


# ---------------------------------------------------------------- the command line


def test_help_fits_on_one_screen_and_needs_nothing(machine: Machine) -> None:
    out, err = machine.launch("--help")
    assert err == ""
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for word in ("setup", "train", "evaluate", "generate", "chat", "convert", "data", "test"):
        assert any(line.startswith(f"  {word} ") for line in lines), word
    assert not machine.venv.exists()


def test_an_unknown_command_lists_the_commands(machine: Machine) -> None:
    error = error_of(machine.launch("trian", code=2))
    assert "unknown command 'trian'" in error
    for word in ("setup", "train", "evaluate", "generate", "chat", "convert", "data", "test"):
        assert f" {word}" in error, word
    assert not machine.venv.exists()


def test_quickstart_trains_in_the_repository(machine: Machine) -> None:
    machine.python()
    machine.launch()
    calls = machine.calls()
    assert calls[0] == "venv" and calls[1].startswith("-m pip install ")
    assert calls[2:] == [
        f"[{machine.repository}] -m megan_jax.train"
        " --config experiments/quickstart.py --workdir runs/quickstart",
    ]


def test_quickstart_fails_when_training_fails(machine: Machine) -> None:
    machine.python()
    machine.launch(code=3, FAKE_FAILS="megan_jax.train")


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "convert", "data"])
def test_commands_are_passed_on_as_they_are(machine: Machine, command: str) -> None:
    machine.python()
    machine.launch("setup")
    machine.calls()
    elsewhere = machine.folder / "else where"
    elsewhere.mkdir()
    out, err = machine.launch(command, "--a", "b c", "", cwd=elsewhere)
    assert (out, err) == ("", ""), "an environment that is ready is not worth a word"
    assert machine.calls() == [f"[{elsewhere}] -m megan_jax.{command} --a b c "]
    machine.launch(command, code=3, FAKE_FAILS=f"megan_jax.{command}")


def test_chat_takes_the_quickstart_unless_told_otherwise(machine: Machine) -> None:
    machine.python()
    machine.launch("chat", "--seed", "1")
    assert machine.calls()[-1].endswith("--interactive --model pretrained --seed 1")
    run = machine.repository / "runs" / "quickstart"
    run.mkdir(parents=True)
    machine.launch("chat")
    assert machine.calls()[-1].endswith("--model pretrained"), "a run that never started"
    (run / "run.json").write_text("{}")
    machine.launch("chat")
    assert machine.calls()[-1].endswith(f"--interactive --model {run}")
    for named in (["--model", "x"], ["--model=x"]):
        machine.launch("chat", *named)
        assert machine.calls()[-1].endswith(f"--interactive {' '.join(named)}")


def test_tests_run_every_check_and_name_those_that_failed(machine: Machine) -> None:
    machine.python()
    machine.launch("setup")
    shellcheck = machine.program("shellcheck", 'echo "shellcheck $*" >>"$CALLS"')
    shutil.copy2(shellcheck, machine.venv / "bin" / "shellcheck")
    machine.launch("test")
    calls = " | ".join(machine.calls())
    for part in ("requirements-test.txt", "ruff check .", "ruff format --check .", "mypy"):
        assert part in calls
    assert "shellcheck launch.sh .ci/run" in calls and "pytest" in calls

    error = error_of(machine.launch("test", code=1, FAKE_FAILS="mypy format"))
    assert error == "error: failed: ruff format, mypy"
    assert "pytest" in machine.calls()[-1], "the tests still run"
    assert error_of(machine.launch("test", code=1, FAKE_FAILS="pytest")) == "error: failed: pytest"

    machine.calls()
    machine.launch("test", "tests/x.py", "-k", "a or b")
    (call,) = machine.calls()
    assert "-m pytest" in call and call.endswith(" tests/x.py -k a or b")


def test_dry_run_changes_nothing(machine: Machine) -> None:
    machine.python()
    out, _ = machine.launch("test", MEGAN_DRY_RUN="1")
    assert all(line.startswith("would run: ") for line in out.splitlines())
    assert "-m venv" in out and "pip install" in out and "-m pytest" in out
    assert not machine.venv.exists() and machine.calls() == []


# ---------------------------------------------------------------- which Python


def test_no_python(machine: Machine) -> None:
    error = error_of(machine.launch("setup", code=1))
    assert "no Python was found; 3.11 or newer is needed" in error and "PYTHON=" in error


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10"])
def test_an_old_python_is_named(machine: Machine, version: str) -> None:
    path = machine.python(says=f"{version} venv linux x86_64")
    error = error_of(machine.launch("setup", code=1))
    assert f"found only Python {version} ({path})" in error
    assert "3.11 or newer is needed" in error
    assert not machine.venv.exists()


def test_a_newer_python_beside_an_old_one_is_taken(machine: Machine) -> None:
    machine.python("python3", says="3.9 venv linux x86_64")
    new = machine.python("python3.11", says="3.11 venv linux x86_64")
    out, _ = machine.launch("setup", MEGAN_DRY_RUN="1")
    assert f"{new} -m venv" in out and "constraints/py311.txt" in out


def test_a_missing_venv_module_says_what_to_install(machine: Machine) -> None:
    path = machine.python(says="3.13 no-venv linux x86_64")
    error = error_of(machine.launch("setup", code=1))
    assert f"Python 3.13 ({path})" in error and "venv or ensurepip" in error
    assert "apt install python3.13-venv" in error
    other = machine.python("python3.11", says="3.11 venv linux x86_64")
    out, _ = machine.launch("setup", MEGAN_DRY_RUN="1")
    assert f"{other} -m venv" in out, "another Python that has it will do"


def test_the_named_python_is_taken_or_refused(machine: Machine) -> None:
    machine.python("python3")
    mine = machine.python("my python", says="3.11 venv linux x86_64")
    out, _ = machine.launch("setup", PYTHON=str(mine), MEGAN_DRY_RUN="1")
    assert "my\\ python -m venv" in out
    mine.with_name("my python.says").write_text("3.8 venv linux x86_64")
    assert "Python 3.8" in error_of(machine.launch("setup", PYTHON=str(mine), code=1))
    error = error_of(machine.launch("setup", PYTHON="/no/such", code=1))
    assert "PYTHON=/no/such is not a program" in error
    broken = machine.program("broken", "exit 1")
    error = error_of(machine.launch("setup", PYTHON=str(broken), code=1))
    assert "does not run as a Python" in error


def test_a_python_that_does_not_start_is_passed_over(machine: Machine) -> None:
    machine.program("python3.12", "echo 'command not found' >&2; exit 127")
    good = machine.python("python3.11", says="3.11 venv linux x86_64")
    out, _ = machine.launch("setup", MEGAN_DRY_RUN="1")
    assert f"{good} -m venv" in out


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("3.12 venv darwin x86_64", "Intel Macs"),
        ("3.12 venv win32 AMD64", "WSL2"),
        ("3.12 venv linux armv7l", "linux on armv7l"),
    ],
)
def test_platforms_without_packages_are_refused(machine: Machine, says: str, message: str) -> None:
    machine.python(says=says)
    assert message in error_of(machine.launch("setup", code=1))


def test_a_python_without_pins_takes_the_newest(machine: Machine) -> None:
    machine.python(says="3.14 venv linux x86_64")
    _, err = machine.launch("setup")
    assert "no pinned versions for Python 3.14" in err
    assert " -c " not in machine.calls()[1]


# ---------------------------------------------------------------- GPU and disk


@pytest.mark.parametrize(
    ("answer", "extra"),
    [
        ("echo '580.65.06, 9.0'", "cuda13"),
        ("echo '612.10, 7.5'", "cuda13"),
        ("echo '580.65.06, 7.0'", "cuda12"),
        ("echo '580.65.06, 9.0'; echo '580.65.06, 6.1'", "cuda12"),
        ("echo '575.57.08, 9.0'", "cuda12"),
        ("echo '525.60.13, 8.0'", "cuda12"),
        ("echo '470.57.02, 8.0'", None),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None),
        ("echo 'No devices were found'; exit 6", None),
    ],
)
def test_the_driver_decides_the_requirement_file(
    machine: Machine, answer: str, extra: str | None
) -> None:
    machine.python()
    machine.program("nvidia-smi", answer)
    machine.program("uname", "echo Linux")
    out, err = machine.launch("setup", MEGAN_DRY_RUN="1")
    named = [name for name in ("cuda12", "cuda13") if f"requirements-{name}.txt" in out]
    assert named == ([extra] if extra else [])
    assert ("CPU" in err) == (extra is None), "falling back to the CPU is said"


def test_the_accelerator_can_be_named(machine: Machine) -> None:
    machine.python()
    machine.program("nvidia-smi", "echo '580.65.06, 9.0'")
    out, _ = machine.launch("setup", MEGAN_DRY_RUN="1", MEGAN_ACCELERATOR="tpu")
    assert "requirements-tpu.txt" in out and "cuda" not in out
    out, _ = machine.launch("setup", MEGAN_DRY_RUN="1", MEGAN_ACCELERATOR="cpu")
    assert "requirements-" not in out
    error = error_of(machine.launch("setup", MEGAN_ACCELERATOR="gpu", code=1))
    assert "MEGAN_ACCELERATOR=gpu is unknown: cpu, cuda12, cuda13 or tpu" in error


def test_the_accelerator_stays_until_the_next_setup(machine: Machine) -> None:
    machine.python()
    machine.program("uname", "echo Linux")
    machine.launch("setup")
    machine.program("nvidia-smi", "echo '580.65.06, 9.0'")
    machine.calls()
    machine.launch("train")
    assert not any("pip install" in call for call in machine.calls())
    machine.launch("setup")
    assert "requirements-cuda13.txt" in machine.calls()[0]
    (machine.bin / "nvidia-smi").unlink()
    machine.launch("train")
    assert not any("pip install" in call for call in machine.calls())


def test_too_little_disk(machine: Machine) -> None:
    machine.python()
    machine.program("df", f"echo Filesystem; echo /dev/sda1 9 9 {3 * 1024 * 1024} 9% /")
    error = error_of(machine.launch("setup", code=1))
    assert "has 3072 MB free" in error and "needs 4 GB" in error and "MEGAN_VENV=" in error
    assert not machine.venv.exists() and not Path(f"{machine.venv}.lock").exists()
    machine.program("df", f"echo Filesystem; echo /dev/sda1 9 9 {5 * 1024 * 1024} 9% /")
    machine.launch("setup", MEGAN_DRY_RUN="1")
    error = error_of(machine.launch("setup", code=1, MEGAN_ACCELERATOR="cuda12"))
    assert "needs 12 GB" in error


# ---------------------------------------------------------------- the environment


def test_installs_again_only_when_the_requirements_change(machine: Machine) -> None:
    machine.python()
    machine.launch("setup")
    assert len(machine.calls()) == 2
    machine.launch("setup")
    machine.launch("train")
    assert machine.calls() == [f"[{machine.folder}] -m megan_jax.train"]

    machine.launch("test", "x")
    assert "requirements-test.txt" in machine.calls()[0]
    machine.launch("train")
    machine.launch("test", "x")
    assert not any("pip" in call for call in machine.calls())

    with open(machine.repository / "requirements-test.txt", "a") as file:
        file.write("another\n")
    machine.launch("train")
    assert not any("pip" in call for call in machine.calls()), "the tests' packages only"
    with open(machine.repository / "constraints" / "py312.txt", "a") as file:
        file.write("another==1\n")
    machine.launch("train")
    install, train = machine.calls()
    assert install.startswith("-m pip install") and "train" in train


def test_packages_come_with_the_pins_of_the_python(machine: Machine) -> None:
    machine.python(says="3.13 venv linux x86_64")
    machine.launch("setup")
    install = machine.calls()[1]
    assert f"-r {machine.repository}/requirements.txt" in install
    assert f"-c {machine.repository}/constraints/py313.txt" in install


def test_an_interrupted_installation_starts_anew(machine: Machine) -> None:
    machine.python()
    process = machine.start("setup", FAKE_PIP_HANGS="1")
    machine.wait_for("pip")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert not Path(f"{machine.venv}.lock").exists()
    machine.calls()

    _, err = machine.launch("setup")
    assert "left half installed" in err
    assert [call.split()[0] for call in machine.calls()] == ["venv", "-m"]
    _, err = machine.launch("setup")
    assert "half" not in err


def test_a_killed_launch_leaves_a_lock_that_does_not_block(machine: Machine) -> None:
    machine.python()
    lock = Path(f"{machine.venv}.lock")
    lock.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    (lock / "pid").write_text(f"{gone.pid}\n")
    machine.launch("setup")
    assert not lock.exists()


def test_a_second_setup_waits_for_the_first(machine: Machine) -> None:
    machine.python()
    lock = Path(f"{machine.venv}.lock")
    lock.mkdir()
    (lock / "pid").write_text(f"{os.getpid()}\n")
    process = machine.start("setup")
    time.sleep(0.5)
    assert process.poll() is None and machine.calls() == []
    shutil.rmtree(lock)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Waiting for another launch.sh" in err


def test_a_folder_of_somebody_elses_is_never_removed(machine: Machine) -> None:
    machine.python()
    precious = machine.folder / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    error = error_of(machine.launch("setup", MEGAN_VENV=str(precious), code=1))
    assert "did not make it" in error and str(precious) in error
    assert (precious / "thesis.tex").read_text() == "x"


def test_an_environment_somebody_made_is_used_and_kept(machine: Machine) -> None:
    python = machine.python()
    own = machine.folder / "own"
    subprocess.run([python, "-m", "venv", own], env=machine.environment, check=True)
    machine.calls()
    machine.launch("setup", MEGAN_VENV=str(own), FAKE_PIP_EXIT="1", code=1)
    machine.launch("setup", MEGAN_VENV=str(own))
    assert not any(call == "venv" for call in machine.calls())
    (own / "bin" / "python.says").write_text("3.10 venv linux x86_64")
    error = error_of(machine.launch("setup", MEGAN_VENV=str(own), code=1))
    assert "has Python 3.10" in error and own.is_dir()


def test_another_place_for_the_environment(machine: Machine) -> None:
    machine.python()
    machine.launch("setup", MEGAN_VENV="deep er/env/")
    assert (machine.folder / "deep er" / "env" / "bin" / "python").exists()
    assert not machine.venv.exists()
    empty = machine.folder / "empty"
    empty.mkdir()
    machine.launch("setup", MEGAN_VENV=str(empty))
    (machine.folder / "file").write_text("")
    error = error_of(machine.launch("setup", MEGAN_VENV="file/env", code=1))
    assert "can't write in" in error and "MEGAN_VENV=" in error


def test_a_broken_environment_is_made_again(machine: Machine) -> None:
    machine.python()
    machine.launch("setup")
    (machine.venv / "bin" / "python").unlink()
    machine.calls()
    _, err = machine.launch("setup")
    assert "no working Python" in err and machine.calls()[0] == "venv"


def test_naming_another_python_makes_the_environment_again(machine: Machine) -> None:
    machine.python()
    machine.launch("setup")
    machine.calls()
    other = machine.python("python3.11", says="3.11 venv linux x86_64")
    _, err = machine.launch("setup", PYTHON=str(other))
    assert "has Python 3.12, not 3.11" in err
    assert machine.calls()[0] == "venv"
    machine.launch("setup", PYTHON=str(other))
    assert machine.calls() == []


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)'\n"
            "ERROR: Could not find a version that satisfies the requirement jax",
            "package index can't be reached",
        ),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: something else", "the lines above say why"),
    ],
)
def test_a_failed_installation_says_why_and_starts_anew(
    machine: Machine, says: str, message: str
) -> None:
    machine.python()
    result = machine.launch("setup", code=1, FAKE_PIP_SAYS=says, FAKE_PIP_EXIT="1")
    error = error_of(result)
    assert message in error and str(machine.venv / "install.log") in error
    assert "WARNING" not in result[1]
    assert ("  | ERROR: something else" in result[1]) == ("lines above" in message)
    machine.calls()
    machine.launch("setup")
    assert "venv" in machine.calls()


@pytest.mark.parametrize(
    ("sent", "heard", "code"),
    [(signal.SIGINT, "INT", 130), (signal.SIGTERM, "TERM", 143), (signal.SIGHUP, "TERM", 143)],
)
def test_training_hears_of_a_signal_once_and_is_waited_for(
    machine: Machine, sent: signal.Signals, heard: str, code: int
) -> None:
    machine.python()
    machine.launch("setup")
    machine.calls()
    process = machine.start(FAKE_TRAINING="1")
    machine.wait_for("training")
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == code
    calls = machine.calls()
    assert calls[1:] == [f"saved on {heard}"], "told once, and nothing is run after it"


# ---------------------------------------------------------------- the files themselves


@pytest.mark.parametrize("version", ["311", "312", "313"])
def test_pins_are_exact_and_meet_every_requirement(version: str) -> None:
    packaging = pytest.importorskip("packaging.requirements")
    utils = pytest.importorskip("packaging.utils")
    pins: dict[str, str] = {}
    for line in (REPOSITORY / "constraints" / f"py{version}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, pin = line.partition("==")
            assert pin, f"{line} is not an exact version"
            assert name not in pins, f"{name} is pinned twice"
            pins[utils.canonicalize_name(name)] = pin
    for path in REPOSITORY.glob("requirements*.txt"):
        for line in path.read_text().splitlines():
            if not line or line.startswith("#"):
                continue
            requirement = packaging.Requirement(line)
            name = utils.canonicalize_name(requirement.name)
            if name != "pip":
                assert pins[name] in requirement.specifier, f"{path.name}: {line} has {pins[name]}"
