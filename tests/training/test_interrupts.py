"""Signals: the first asks, the second ends the process, and the old handlers come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from megan_jax.training import interrupts
from megan_jax.training.interrupts import Interrupts

ROOT = Path(interrupts.__file__).parents[2]

TRAIN = """
    import sys, time
    from megan_jax.training.interrupts import Interrupts
    with Interrupts() as interrupts:
        print("ready", flush=True)
        for step in range(1000):
            time.sleep(0.02)
            if interrupts.requested:
                print("saved after", interrupts.name, flush=True)
                sys.exit(interrupts.exit_code)
"""

# One call into C that holds the main thread and would not let a Python handler run.
BUSY = """
    import ctypes
    from megan_jax.training.interrupts import Interrupts
    libc = ctypes.CDLL(None)
    with Interrupts():
        print("ready", flush=True)
        while True:
            left = 60
            while left:
                left = libc.sleep(left)
"""


def start(script: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 0), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_the_first_signal_lets_the_loop_save(number, name, code):
    process = start(TRAIN)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == f"saved after {name}\n"
    assert process.returncode == code
    assert err == f"\n{name}: finishing this step, then saving a checkpoint. Again: stop now.\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_at_once_even_inside_c(number):
    process = start(BUSY)
    process.send_signal(number)
    assert process.stderr.readline() == "\n"
    assert "Again: stop now." in process.stderr.readline()
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert time.monotonic() - began < 5
    process.communicate()


def test_flag_and_old_handlers_in_this_process(capfd):
    def mine(number, frame):
        raise AssertionError("not now")

    old = signal.signal(signal.SIGTERM, mine)
    try:
        before = signal.getsignal(signal.SIGINT)
        with Interrupts() as caught:
            assert not caught.requested and caught.name == "" and caught.exit_code == 0
            signal.raise_signal(signal.SIGTERM)
            assert caught.requested and caught.name == "SIGTERM" and caught.exit_code == 0
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is before
        assert signal.set_wakeup_fd(-1) == -1
        assert not any(t.name == "interrupts" for t in threading.enumerate())
        with Interrupts() as again:
            signal.raise_signal(signal.SIGINT)
            assert again.exit_code == 130
    finally:
        signal.signal(signal.SIGTERM, old)
    assert capfd.readouterr().err.count("Again: stop now.") == 2


def test_handlers_come_back_after_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), Interrupts():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with Interrupts() as caught:
            seen.append((caught.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
