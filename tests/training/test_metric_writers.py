"""Metrics on disk: every record once, in order, valid JSON, and never a wait for a running step."""

from __future__ import annotations

import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from megan_jax.errors import UserError
from megan_jax.training.metric_writers import (
    JsonlWriter,
    MetricWriter,
    TensorBoardWriter,
    read_metrics,
)


class Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def write(self, step, scalars, wall_time):
        self.records.append((step, dict(scalars)))

    def close(self):
        self.closed = True


class DeviceScalar:
    """Stands for an array whose step may still be running: reading it is recorded."""

    def __init__(self, value: float) -> None:
        self.value, self.copies, self.reads = value, 0, 0

    def copy_to_host_async(self):
        self.copies += 1

    def __array__(self, dtype=None, copy=None):
        self.reads += 1
        return np.asarray(self.value, dtype)


def test_a_record_is_read_only_when_the_next_one_comes():
    kept, first, second = Kept(), DeviceScalar(1.5), DeviceScalar(2.5)
    with MetricWriter(kept) as writer:
        writer.write(1, {"loss": first})
        assert (first.copies, first.reads, kept.records) == (1, 0, [])
        writer.write(2, {"loss": second})
        assert (first.reads, second.copies, second.reads) == (1, 1, 0)
        assert kept.records == [(1, {"loss": 1.5})]
        writer.flush()
        writer.flush()
        assert kept.records == [(1, {"loss": 1.5}), (2, {"loss": 2.5})]
        writer.write(3, {"loss": jnp.float32(3.5)})
    assert kept.records[-1] == (3, {"loss": 3.5}) and kept.closed


def test_the_observer_sees_floats():
    seen = []
    with MetricWriter(on_record=lambda step, scalars: seen.append((step, scalars))) as writer:
        writer.write(7, {"loss": jnp.ones((1,)), "tokens": 12})
    assert seen == [(7, {"loss": 1.0, "tokens": 12.0})]
    assert all(type(value) is float for value in seen[0][1].values())


def test_an_error_in_the_block_is_not_hidden_by_closing():
    class Broken(Kept):
        def write(self, step, scalars, wall_time):
            raise UserError("disk")

    with pytest.raises(KeyError, match="cause"), MetricWriter(Broken()) as writer:
        writer.write(1, {"loss": 1.0})
        raise KeyError("cause")
    broken = Broken()
    with pytest.raises(UserError, match="disk"), MetricWriter(broken) as writer:
        writer.write(1, {"loss": 1.0})
    assert broken.closed


def test_jsonl_lines_are_there_at_once_and_floats_survive(tmp_path):
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    loss = float(np.float32(2.123456))
    writer.write(5, {"loss": loss, "lr": 1e-5}, wall_time=1_700_000_000.1234)
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line) == {"step": 5, "time": 1_700_000_000.123, "loss": loss, "lr": 1e-5}
    assert np.float32(json.loads(line)["loss"]) == np.float32(2.123456)
    assert line.endswith("\n") and line.count("\n") == 1
    writer.close()


def test_non_finite_values_are_valid_json_and_flagged(tmp_path):
    writer = JsonlWriter(tmp_path / "m.jsonl")
    writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}, 0.0)
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=refuse)
    assert [record[k] for k in "abcd"] == [None, None, None, 1.0]
    assert record["nonfinite"] == {"a": "nan", "b": "inf", "c": "-inf"}


def test_resume_cuts_later_records_and_a_torn_last_line(tmp_path):
    path = tmp_path / "m.jsonl"
    writer = JsonlWriter(path)
    for step in (10, 20, 20, 30):
        writer.write(step, {"loss": float(step)}, 0.0)
    writer.close()
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [r["step"] for r in read_metrics(path)] == [10, 20, 20, 30]
    writer = JsonlWriter(path, resume_step=20)
    writer.write(30, {"loss": 31.0}, 0.0)
    writer.close()
    assert [(r["step"], r["loss"]) for r in read_metrics(path)] == [
        (10, 10.0),
        (20, 20.0),
        (20, 20.0),
        (30, 31.0),
    ]
    assert list(tmp_path.iterdir()) == [path]
    JsonlWriter(path, resume_step=0).close()
    assert path.read_text() == ""


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "m.jsonl"
    path.symlink_to("/dev/full")
    writer = JsonlWriter(path)
    with pytest.raises(UserError, match=r"m\.jsonl: no space left on the device"):
        writer.write(1, {"loss": 1.0}, 0.0)


def test_a_folder_that_is_not_there_or_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x.*not a folder"):
        JsonlWriter(tmp_path / "file" / "x")
    with pytest.raises(UserError, match=r"file/tb.*not a folder"):
        TensorBoardWriter(tmp_path / "file" / "tb")


def read_events(path) -> list[Event]:
    """Reads an event file by the TFRecord layout: length, its checksum, data, its checksum."""
    data, events, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        events.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return events


def test_tensorboard_events_and_the_purge_on_resume(tmp_path):
    first = TensorBoardWriter(tmp_path)
    first.write(10, {"loss": 2.5, "eval/gap": -0.5}, wall_time=123.0)
    (file,) = tmp_path.iterdir()
    version, event = read_events(file)  # before close: events are on disk at once
    assert version.file_version == "brain.Event:2"
    assert (event.step, event.wall_time) == (10, 123.0)
    assert {v.tag: v.simple_value for v in event.summary.value} == {"loss": 2.5, "eval/gap": -0.5}
    first.close()
    second = TensorBoardWriter(tmp_path, resume_step=7)
    second.close()
    _, newer = sorted(tmp_path.iterdir())
    _, start = read_events(newer)
    assert start.step == 8 and start.session_log.status == start.session_log.START
