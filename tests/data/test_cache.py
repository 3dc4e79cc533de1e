"""The token cache: what is written reads back, and nothing damaged or half-written is used."""

import dataclasses
import multiprocessing
import os
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from megan_jax.data import cache
from megan_jax.data.encode import EncodedExample
from megan_jax.data.sampling import BatchSource
from megan_jax.data.table import ExampleIndex, ListTable
from megan_jax.errors import UserError
from tests.data.encoded import random_table

PARTS = {"source": "abc", "tokenizer": "def", "placement": "none"}
LENGTH = 4


class Builder:
    """Yields examples, and counts how often it is asked to."""

    def __init__(self, examples):
        self.examples, self.calls = examples, 0

    def __call__(self):
        self.calls += 1
        yield from self.examples


@pytest.fixture
def builder():
    return Builder(random_table().examples)


def same(a: EncodedExample, b: EncodedExample) -> bool:
    return all(
        np.array_equal(x, y) if isinstance(x, np.ndarray) else
        len(x) == len(y) and all(map(np.array_equal, x, y)) if f.name == "conditions" else x == y
        for f in dataclasses.fields(a)
        for x, y in [(getattr(a, f.name), getattr(b, f.name))]
    )  # fmt: skip


ids = hnp.arrays(np.int32, st.integers(1, 20), elements=st.integers(0, 2**31 - 1))


@given(ids, st.data(), st.lists(ids, max_size=3), st.text(), st.lists(st.text(), max_size=2))
def test_a_record_reads_back(tokens, data, conditions, text, options):
    example = EncodedExample(
        tokens=tokens,
        loss_mask=data.draw(hnp.arrays(bool, len(tokens))),
        conditions=tuple(conditions),
        condition_type="style",
        condition_key=text,
        options=tuple(options),
        source=f"{text}:3",
        truncated=2,
    )
    record = cache.pack_example(example)
    back = cache.unpack_example(record)
    assert same(back, example) and isinstance(back.options, tuple)
    assert back.tokens.dtype == np.int32 and back.loss_mask.dtype == bool
    at = data.draw(st.integers(0, len(record) - 1))
    broken = bytearray(record)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(broken), record[:at]):
        with pytest.raises(ValueError, match="checksum"):
            cache.unpack_example(damaged)


def test_built_once_then_read(tmp_path, builder):
    built = cache.open_or_build(tmp_path, PARTS, LENGTH, builder)
    again = cache.open_or_build(tmp_path, dict(reversed(PARTS.items())), LENGTH, builder)
    assert builder.calls == 1 and built.path == again.path
    memory = ListTable(builder.examples, LENGTH)
    order = [7, 3, 3, 39, 0]
    for table in (built, again):
        assert len(table.index) == 40 and table.condition_length == LENGTH
        assert all(map(same, table.fetch(order), memory.fetch(order)))
        for field in dataclasses.fields(ExampleIndex):
            assert np.array_equal(
                getattr(table.index, field.name), getattr(memory.index, field.name)
            )
    assert again.fetch([]) == []


def test_batches_from_the_cache_are_those_from_memory(tmp_path, builder):
    settings = {"seed": 1, "batch_size": 4, "row_length": 32, "condition_capacity": 12}
    cached = cache.open_or_build(tmp_path, PARTS, LENGTH, builder)
    a = BatchSource(cached, **settings).batch(5)
    b = BatchSource(ListTable(builder.examples, LENGTH), **settings).batch(5)
    assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.condition_ids, b.condition_ids)


def test_only_the_cache_and_its_lock_are_left(tmp_path, builder):
    table = cache.open_or_build(tmp_path / "new" / "folder", PARTS, LENGTH, builder)
    names = {path.name for path in table.path.parent.iterdir()}
    assert names == {table.path.name, f"{table.path.name}.lock"}


@pytest.mark.parametrize("change", [{"source": "abd"}, {"date": "2026-01-01"}])
def test_anything_that_shapes_the_examples_makes_another_cache(tmp_path, builder, change):
    first = cache.open_or_build(tmp_path, PARTS, LENGTH, builder)
    second = cache.open_or_build(tmp_path, PARTS | change, LENGTH, builder)
    third = cache.open_or_build(tmp_path, PARTS, LENGTH + 1, builder)
    assert len({first.path, second.path, third.path}) == 3 and builder.calls == 3


def test_another_code_version_makes_another_cache(monkeypatch):
    before = cache.fingerprint(PARTS)
    monkeypatch.setattr(cache, "CODE_VERSION", cache.CODE_VERSION + 1)
    assert cache.fingerprint(PARTS) != before


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 25] ^= 255  # within the records: what follows them is mostly padding
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def replace(path):
    path.write_text('{"files": []}')


@pytest.mark.parametrize("name", ["examples.array_record", "index.npz", "manifest.json"])
@pytest.mark.parametrize("damage", [flip, cut, empty, replace, os.remove])
def test_a_damaged_cache_is_built_again(tmp_path, builder, name, damage):
    path = cache.open_or_build(tmp_path, PARTS, LENGTH, builder).path
    damage(path / name)
    table = cache.open_or_build(tmp_path, PARTS, LENGTH, builder)
    assert builder.calls == 2
    assert all(map(same, table.fetch(range(40)), builder.examples))


def test_records_that_break_under_an_open_cache_are_noticed(tmp_path, builder):
    table = cache.open_or_build(tmp_path, PARTS, LENGTH, builder)
    data = (table.path / "examples.array_record").read_bytes()
    payload = builder.examples[20].tokens.tobytes()
    assert data.count(payload) == 1
    with open(table.path / "examples.array_record", "r+b") as file:
        file.seek(data.index(payload))
        file.write(b"\xff")
    with pytest.raises(UserError, match=r"examples.array_record is damaged .*Remove the folder"):
        cache.CachedTable(table.path, table.index, LENGTH).fetch([20])


def test_a_failed_build_leaves_nothing(tmp_path, builder):
    def failing():
        yield from builder.examples[:3]
        raise UserError("data.jsonl:4: the row is bad")

    with pytest.raises(UserError, match=r"data.jsonl:4: the row is bad"):
        cache.open_or_build(tmp_path, PARTS, LENGTH, failing)

    def interrupted():
        yield from builder.examples[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.open_or_build(tmp_path, PARTS, LENGTH, interrupted)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_build_left_is_removed(tmp_path, builder):
    key = cache.fingerprint(PARTS | {"condition_length": LENGTH})
    (tmp_path / f".{key}-killed").mkdir()
    (tmp_path / f".{key}-killed" / "examples.array_record").write_bytes(b"half")
    table = cache.open_or_build(tmp_path, PARTS, LENGTH, builder)
    assert {path.name for path in tmp_path.iterdir()} == {table.path.name, f"{key}.lock"}


def test_no_examples_are_an_error(tmp_path):
    with pytest.raises(UserError, match="there are no examples"):
        cache.open_or_build(tmp_path, PARTS, LENGTH, Builder([]))


@pytest.mark.parametrize("limit", [1_000, 9_000])
def test_a_disk_that_takes_no_more(tmp_path, builder, limit):
    """A limit on the size of files stands in for a full disk: the same writes fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            UserError, match=r"cannot write the token cache in .*config.data.cache_dir"
        ):
            cache.open_or_build(tmp_path, PARTS, LENGTH, Builder(builder.examples * 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made(tmp_path, builder):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the token cache in .*file.*permissions"):
        cache.open_or_build(tmp_path / "file" / "cache", PARTS, LENGTH, builder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path, builder):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write the token cache in .*Permission denied"):
        cache.open_or_build(tmp_path, PARTS, LENGTH, builder)


def _no_locks(*_):
    raise OSError(37, "No locks available")


def _open_together(directory, locks, barrier, results):
    if not locks:
        cache.fcntl.flock = _no_locks
    started = []

    def build():
        started.append(True)
        yield from random_table().examples

    barrier.wait()
    table = cache.open_or_build(directory, PARTS, LENGTH, build)
    results.put((len(started), [int(example.tokens.sum()) for example in table.fetch(range(40))]))


@pytest.mark.parametrize("locks", [True, False])
def test_processes_that_build_at_once(tmp_path, locks):
    """With locks one of them builds; without, both do, and both end with the same cache."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (tmp_path, locks, barrier, results)
    workers = [context.Process(target=_open_together, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    expected = [int(example.tokens.sum()) for example in random_table().examples]
    assert [sums for _, sums in found] == [expected] * 2
    builds = sum(calls for calls, _ in found)
    assert builds == 1 if locks else builds >= 1
    assert not list(tmp_path.glob(".*"))


def test_file_fingerprint(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a" * 5_000_000)
    before = cache.file_fingerprint(path)
    path.write_bytes(b"a" * 4_999_999 + b"b")
    assert cache.file_fingerprint(path) != before and len(before) == 32
    with pytest.raises(UserError, match=r"cannot read .*nowhere: No such file"):
        cache.file_fingerprint(tmp_path / "nowhere")
