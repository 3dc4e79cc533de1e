"""Ctrl-C and SIGTERM during training: the first one asks, the second one ends the process.

with Interrupts() as interrupts:
    for step in …:
        …
        if interrupts.requested:
            save a checkpoint, print the resume command
            return interrupts.exit_code
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Catches SIGINT and SIGTERM while its block runs, and puts the old handlers back after it.

    The second signal ends the process at once with status 128 + signal, also while the main thread
    is busy in a long compilation: a Python handler would only run after it, so the signals are
    counted by a thread that the interpreter's own C handler wakes.

    Outside the main thread no handler can be installed; there the block does nothing.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._old_handlers: dict[int, Any] = {}
        self._read, self._write, self._old_wakeup = -1, -1, -1
        self._watcher: threading.Thread | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    @property
    def name(self) -> str:
        """What came, for a message: "Ctrl-C", "SIGTERM", or "" if nothing did."""
        if self._signal is None:
            return ""
        return "Ctrl-C" if self._signal == signal.SIGINT else signal.Signals(self._signal).name

    @property
    def exit_code(self) -> int:
        """0 after SIGTERM (a preempted run that saved has done its duty), 130 after Ctrl-C."""
        return 130 if self._signal == signal.SIGINT else 0

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._watcher = threading.Thread(target=self._watch, name="interrupts", daemon=True)
        self._watcher.start()
        self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            self._old_handlers[number] = signal.signal(number, self._first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watcher is None:
            return
        for number, handler in self._old_handlers.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._write)
        self._watcher.join()
        os.close(self._read)
        self._watcher = None

    def _first(self, number: int, frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = number

    def _watch(self) -> None:
        count = 0
        while data := os.read(self._read, 1):
            number = data[0]
            if number not in SIGNALS:
                continue
            count += 1
            if count > 1:
                if os.isatty(2):
                    _say("\x1b[?25h")  # a progress bar hides the cursor
                os._exit(128 + number)
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            _say(f"\n{name}: finishing this step, then saving a checkpoint. Again: stop now.\n")


def _say(text: str) -> None:
    """Writes to stderr without the lock of `print`, which the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
