"""Metrics to metrics.jsonl and TensorBoard, without ever waiting for the step that is running."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from megan_jax.run_folder import user_errors, write_text


class Writer(Protocol):
    """Takes the scalars of one step, as Python floats."""

    def write(self, step: int, scalars: Mapping[str, float], wall_time: float) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """Appends one line per record: {"step": 10, "time": 1.7e9, "loss": 2.5}, flushed at once.

    A non-finite value is written as null and listed under "nonfinite" as {"loss": "nan"}.

    Args:
      path: the file; it is created.
      resume_step: cut all records after this step, so that a resumed run does not repeat them.

    Raises:
      UserError: the file cannot be written (full disk, read-only folder, …); also from `write`.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None) -> None:
        self._path = Path(path)
        if resume_step is not None and self._path.exists():
            cut_after(self._path, resume_step)
        with user_errors(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, scalars: Mapping[str, float], wall_time: float) -> None:
        """Appends one record."""
        record: dict[str, Any] = {"step": step, "time": round(wall_time, 3)}
        nonfinite = {}
        for name, value in scalars.items():
            if math.isfinite(value):
                record[name] = value
            else:
                record[name] = None
                nonfinite[name] = str(value)
        if nonfinite:
            record["nonfinite"] = nonfinite
        with user_errors(self._path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with user_errors(self._path):
            self._file.close()


def cut_after(path: Path, step: int) -> None:
    """Removes the records of a metrics file that come after `step`, and a last line cut short."""
    text = path.read_text(encoding="utf-8", errors="replace")
    kept = [line for line in text.split("\n") if _step_of(line) <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a last line that a crash cut short is left out."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    return [json.loads(line) for line in lines if math.isfinite(_step_of(line))]


class TensorBoardWriter:
    """Writes scalars to a new event file, in this thread, so that a full disk is an error here.

    Args:
      directory: TensorBoard's log directory; it is created.
      resume_step: tells TensorBoard to hide what older files have after this step.

    Raises:
      UserError: the folder cannot be written; also from `write`.
    """

    def __init__(self, directory: str | os.PathLike[str], resume_step: int | None = None) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._directory = Path(directory)
        # TensorBoard reads the files in the order of their names. Two starts may share a second.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9:010d}.{socket.gethostname()}.{now}"
        with user_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._records = RecordWriter(str(self._directory / name))
        self._event = Event
        self._add(Event(wall_time=now / 1e9, file_version="brain.Event:2"))
        if resume_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(wall_time=now / 1e9, step=resume_step + 1, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float], wall_time: float) -> None:
        """Adds one event with all scalars."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add(self._event(wall_time=wall_time, step=step, summary=Summary(value=values)))

    def _add(self, event: Any) -> None:
        with user_errors(self._directory):
            self._records.write(event.SerializeToString())
            self._records.flush()

    def close(self) -> None:
        """Closes the event file."""
        with user_errors(self._directory):
            self._records.close()


class MetricWriter:
    """Hands records to its writers one call late.

    `write` only starts the copy of its scalars to the host and then writes the record of the call
    before, whose step has finished by then: training never waits for a number to be printed.

    Args:
      *writers: where the records go.
      on_record: called with (step, scalars as floats) for every record that is written.
    """

    def __init__(
        self,
        *writers: Writer,
        on_record: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self._writers = writers
        self._on_record = on_record
        self._pending: tuple[int, Mapping[str, Any], float] | None = None

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Takes the record of one step: scalars that are floats, numpy or device arrays of size 1.

        Call `flush` before a checkpoint of this step is saved: a run that is killed later goes on
        after the checkpoint and would not write this record again.
        """
        for value in scalars.values():
            if hasattr(value, "copy_to_host_async"):
                value.copy_to_host_async()
        previous, self._pending = self._pending, (step, dict(scalars), time.time())
        self._write_out(previous)

    def flush(self) -> None:
        """Writes the record that is still held back; waits for its step."""
        previous, self._pending = self._pending, None
        self._write_out(previous)

    def _write_out(self, record: tuple[int, Mapping[str, Any], float] | None) -> None:
        if record is None:
            return
        step, scalars, wall_time = record
        values = {name: float(np.asarray(value).reshape(())) for name, value in scalars.items()}
        for writer in self._writers:
            writer.write(step, values, wall_time)
        if self._on_record is not None:
            self._on_record(step, values)

    def close(self) -> None:
        """Writes what is held back and closes all writers."""
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)
            self.flush()

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        # What went wrong first is what the user must see.
        with contextlib.suppress(Exception):
            self.close()
