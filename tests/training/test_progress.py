"""Progress: a bar on a terminal, whole plain lines in a pipe, numbers that add up."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from megan_jax.training import progress
from megan_jax.training.progress import Progress, duration

ROOT = Path(progress.__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(steps, *, seconds=2.0, tokens=500, total=40, **options) -> list[str]:
    stream, clock = io.StringIO(), Clock()
    with Progress(total, stream=stream, clock=clock, **options) as shown:
        for step in steps:
            clock.now += seconds
            shown.update(step, loss=1.25, tokens=tokens)
    return stream.getvalue().splitlines()


def test_plain_lines_every_log_every_and_at_the_end():
    lines = run(range(1, 26), total=25, log_every=10)
    assert lines == [
        "step 10/25  loss 1.2500  250 tok/s  30s left",
        "step 20/25  loss 1.2500  250 tok/s  10s left",
        "step 25/25  loss 1.2500  250 tok/s",
    ]


def test_the_first_report_has_no_rates():
    """The time before it went into compilation."""
    assert run([10], seconds=60) == ["step 10/40  loss 1.2500"]
    assert run([10, 20], seconds=5)[1] == "step 20/40  loss 1.2500  100 tok/s  10s left"


def test_a_resumed_run_counts_from_its_start():
    assert run([30, 40], start=20, seconds=10)[0] == "step 30/40  loss 1.2500"


def test_rates_follow_a_change_of_speed():
    stream, clock = io.StringIO(), Clock()
    shown = Progress(1000, stream=stream, clock=clock, log_every=1)
    for step in range(1, 201):
        clock.now += 1.0 if step <= 100 else 4.0
        shown.update(step, 1.0, 100)
    lines = stream.getvalue().splitlines()
    assert "100 tok/s" in lines[99] and "15m00s left" in lines[99]
    assert "25 tok/s" in lines[199] and "53m20s left" in lines[199]


def test_a_pause_is_not_counted():
    stream, clock = io.StringIO(), Clock()
    shown = Progress(3, stream=stream, clock=clock, log_every=1)
    shown.update(1, 1.0, 10)
    with shown.paused():
        clock.now += 1000
    clock.now += 1
    shown.update(2, 1.0, 10)
    assert stream.getvalue().splitlines()[1] == "step 2/3  loss 1.0000  10 tok/s  1s left"


def test_quiet_is_quiet():
    stream = io.StringIO()
    with Progress(3, quiet=True, stream=stream) as shown:
        shown.update(3, 1.0, 10)
        shown.message("hello")
    assert stream.getvalue() == ""


def test_a_loss_that_is_not_a_number_is_shown():
    stream = io.StringIO()
    Progress(1, stream=stream).update(1, float("nan"), 1)
    assert stream.getvalue() == "step 1/1  loss nan\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"), (3600, "1h00m"), (7620, "2h07m")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


SCRIPT = """
    from megan_jax.training.progress import Progress
    with Progress(20, log_every=10) as shown:
        for step in range(1, 21):
            shown.update(step, 1.0, 10)
            if step == 15:
                shown.message("an [evaluation] at 15")
"""


def environment() -> dict[str, str]:
    # FORCE_COLOR makes rich take a pipe for a terminal.
    return {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1", "TERM": "xterm"}


def test_a_pipe_gets_plain_lines_only():
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.stderr == "" and "\x1b" not in done.stdout and "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "step 10/20",
        "an [evaluation] at 15",
        "step 20/20",
    ]


def test_a_terminal_gets_a_bar():
    controller, terminal = pty.openpty()
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment())
    os.close(terminal)
    output = b""
    try:
        while chunk := os.read(controller, 4096):
            output += chunk
    except OSError:  # Linux ends a pseudo-terminal with EIO.
        pass
    os.close(controller)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    assert "\x1b[" in text and "━" in text
    assert "an [evaluation] at 15" in text
    assert "step 20/20" in text and "100%" in text and "loss 1.0000" in text
