"""Where a training run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress

# The weight of the newest interval in the running rates, which smooths over about ten of them.
_SMOOTHING = 0.2


class Progress:
    """Shows step, loss, tokens per second and time left.

    Args:
      total: the last step.
      start: the step that a resumed run starts from.
      log_every: steps between plain lines (there is one for the last step too).
      quiet: show nothing.
      stream: where to; default stdout. A bar if it is a terminal, lines if not.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        log_every: int = 10,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._log_every, self._quiet, self._clock = total, log_every, quiet, clock
        self._stream = sys.stdout if stream is None else stream
        self._step = start
        self._last_time: float | None = None
        self._step_seconds = _Average()
        self._token_seconds = _Average()
        self._bar: RichProgress | None = None
        # Not rich's own test, which environment variables can turn on for a pipe.
        if not quiet and self._stream.isatty():
            console = Console(file=self._stream)
            if not console.is_dumb_terminal:
                self._bar = RichProgress(
                    TextColumn("step {task.completed}/{task.total}"),
                    BarColumn(),
                    TaskProgressColumn(),
                    TextColumn("{task.description}"),
                    console=console,
                )
                self._task = self._bar.add_task("starting", total=total, completed=start)

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Reports that `step` is done with this loss, `tokens` tokens after the last report.

        The first report only starts the clock: the time before it went into compilation.
        """
        now = self._clock()
        steps, self._step = step - self._step, step
        if self._last_time is not None and steps > 0:
            seconds = max(now - self._last_time, 1e-9)
            self._step_seconds.add(seconds, steps)
            self._token_seconds.add(seconds, tokens)
        self._last_time = now
        rate = self._token_seconds.per_second()
        speed = "" if rate is None else f"  {rate:,.0f} tok/s"
        text = f"loss {loss:.4f}{speed}{self._time_left()}"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif not self._quiet and (step % self._log_every == 0 or step >= self._total):
            self._line(f"step {step}/{self._total}  {text}")

    def _time_left(self) -> str:
        rate = self._step_seconds.per_second()
        if rate is None or self._step >= self._total:
            return ""
        return f"  {duration((self._total - self._step) / rate)} left"

    def message(self, text: str) -> None:
        """Shows a line of text: above the bar, between the lines, or not at all if quiet."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            self._line(text)

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block (an evaluation, say) out of the rates."""
        began = self._clock()
        try:
            yield
        finally:
            if self._last_time is not None:
                self._last_time += self._clock() - began

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class _Average:
    """A rate whose older intervals fade: sums of seconds and counts, both decayed alike."""

    def __init__(self) -> None:
        self._seconds, self._count = 0.0, 0.0

    def add(self, seconds: float, count: float) -> None:
        self._seconds += _SMOOTHING * (seconds - self._seconds)
        self._count += _SMOOTHING * (count - self._count)

    def per_second(self) -> float | None:
        return self._count / self._seconds if self._seconds > 0 else None


def duration(seconds: float) -> str:
    """Returns "42s", "3m05s" or "2h07m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"
