"""A run folder: what a run leaves behind, who may write there, what may change on resume.

    run.json          what was run: versions, git revision, resolved configuration, fingerprints
    metrics.jsonl     one record per line, in the order of the steps
    tensorboard/      the same numbers as event files
    checkpoints/      see `megan_jax.training.checkpoints`
    tokenizer/        a copy, so that the folder can be used without the base model's source
    report.html       written by the evaluation

`run.json` is written last, so a folder without it holds no run. Everything here works without JAX.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from megan_jax.errors import UserError

FORMAT = 1
RUN_FILE = "run.json"
LOCK_FILE = ".lock"

# Keys (`.*` at the end: a whole section) that a resumed run may change. All others shape the data,
# the model or the update.
MAY_CHANGE_ON_RESUME = (
    "train.steps",
    # How often and where it looks at itself.
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.tensorboard",
    "data.eval",
    "data.cache_dir",
    "eval.*",
    "report.*",
    # How the same computation is laid out on the machines that it finds.
    "train.microbatches",
    "train.remat",
    "train.loss_chunk",
    "mesh.*",
)

_log = logging.getLogger(__name__)

_ADVICE = {
    errno.ENOSPC: "no space left on the device. Free some space or write to another disk.",
    errno.EDQUOT: "the disk quota is used up. Free some space or write to another disk.",
    errno.EFBIG: "the file would be larger than its file system or the shell's limit allows.",
    errno.EROFS: "the file system is read-only. Choose a folder that can be written.",
    errno.EACCES: "permission denied. Change its permissions or choose another folder.",
    errno.EPERM: "the operation is not permitted. Change its permissions or choose another folder.",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another path.",
    errno.EISDIR: "it is a folder, not a file. Choose another path.",
    errno.ENAMETOOLONG: "the name is too long for this file system. Choose a shorter one.",
}


def explain_os_error(error: OSError, path: str | os.PathLike[str] | None = None) -> str | None:
    """Returns one sentence for an operating-system error that a user can mend, else None.

    `path` is named where the error does not carry a file name of its own.
    """
    advice = _ADVICE.get(error.errno or 0)
    if advice is None:
        return None
    where = error.filename if error.filename is not None else path
    return f"{os.fspath(where) if where is not None else 'output'}: {advice}"


@contextlib.contextmanager
def user_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns a mendable OSError inside the block into a `UserError` that names the path."""
    try:
        yield
    except OSError as error:
        message = explain_os_error(error, path)
        if message is None:
            raise
        raise UserError(message) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file so that a reader sees the old file or the new one, never a part.

    Raises:
      UserError: disk full, read-only folder, …; the old file is untouched, no other is left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with user_errors(path):
        try:
            with temporary.open("w", encoding="utf-8", errors="replace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a file that could not be written, before the work that it is to hold.

    Raises:
      UserError: its folder is not there or cannot be written to, or it is a folder itself.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no such folder as {path.parent}. Make it first.")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent}: no permission to write there. Choose another place.")


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes `plain(data)` as indented, strictly valid JSON, atomically (see `write_text`)."""
    text = json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """Returns `value` as JSON has it: dicts with string keys, lists, strings, numbers, None.

    Takes ConfigDicts, dataclass-free mappings, tuples, paths and numpy scalars. Non-finite numbers
    become the strings "nan", "inf" and "-inf".

    Raises:
      TypeError: a value that JSON has no form for.
    """
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot be written as JSON")


def git_state(directory: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Returns {"revision": commit or "unknown", "dirty": bool or None} of the package's checkout.

    Only a repository whose top folder is `directory` (default: the one that holds the package)
    counts; an installed package inside somebody else's repository is "unknown".
    """
    top = Path(directory) if directory is not None else Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(top), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != top.resolve():
            return {"revision": "unknown", "dirty": None}
        revision = git("rev-parse", "HEAD")
        return {"revision": revision, "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {"revision": "unknown", "dirty": None}


def package_version() -> str:
    """Returns the version of the installed package, or "unknown" in a bare checkout."""
    try:
        return metadata.version("megan-jax")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run and the content of its run.json."""

    path: Path
    info: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration as plain nested dicts."""
        return self.info["config"]

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Holds the folder for this process; see `lock`."""
        return lock(self.path)


def is_run_folder(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder with a run.json (which may still be unreadable)."""
    return (Path(path) / RUN_FILE).is_file()


def create(
    workdir: str | os.PathLike[str],
    *,
    config: Any,
    argv: Sequence[str],
    fingerprints: Mapping[str, Mapping[str, str]],
) -> RunFolder:
    """Makes a new run folder and writes its run.json.

    Args:
      workdir: a path that does not exist yet, or an empty folder.
      config: the resolved configuration (ConfigDict or nested dicts).
      argv: the arguments of the command, for the record.
      fingerprints: {"base_model": {"source": …, "fingerprint": …}, "tokenizer": {…}, "data": {…}}.

    Raises:
      UserError: the folder holds a run or other files, or cannot be written.
    """
    path = Path(workdir)
    with user_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    _check_free(path)
    # Of two processes that start at the same time, one creates the run and one sees that.
    with lock(path):
        _check_free(path)
        info = {
            "format": FORMAT,
            "package_version": package_version(),
            "git": git_state(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "argv": list(argv),
            "fingerprints": fingerprints,
            "config": config,
        }
        write_json(path / RUN_FILE, info)
    return RunFolder(path, plain(info))


def _check_free(path: Path) -> None:
    if is_run_folder(path):
        raise UserError(f"{path} already holds a run. Choose another --workdir, or resume it.")
    with user_errors(path):
        foreign = sorted(p.name for p in path.iterdir() if not p.name.startswith("."))
    if foreign:
        names = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise UserError(
            f"{path} is not empty and not a run folder: it has no {RUN_FILE} but contains "
            f"{names}. Choose another --workdir."
        )


def open(workdir: str | os.PathLike[str]) -> RunFolder:
    """Reads an existing run folder.

    Raises:
      UserError: nothing there, not a run folder, an unreadable run.json or one of a newer format.
    """
    path = Path(workdir)
    if not path.exists():
        raise UserError(f"{path}: no such run folder. Check the path, or train one first.")
    if not is_run_folder(path):
        raise UserError(f"{path} is not a run folder: it has no {RUN_FILE}.")
    file = path / RUN_FILE
    try:
        with user_errors(file):
            info = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged and cannot be read: {error}.") from error
    if not isinstance(info, dict) or not isinstance(info.get("config"), dict):
        raise UserError(f"{file} is not the record of a run: it has no configuration.")
    if info.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {info.get('format')!r}, this version of megan_jax reads {FORMAT}. "
            "Use the version that wrote it: " + str(info.get("package_version", "unknown")) + "."
        )
    return RunFolder(path, info)


def create_or_resume(
    workdir: str | os.PathLike[str],
    *,
    config: Any,
    argv: Sequence[str],
    fingerprints: Mapping[str, Mapping[str, str]],
) -> tuple[RunFolder, bool]:
    """Opens the run in `workdir` if there is one and it fits, or else creates it.

    The same command thus starts a run and goes on with it. Returns (folder, whether it existed).

    Raises:
      UserError: as `create`, `open` and `check_resume`.
    """
    if not is_run_folder(workdir):
        new = create(workdir, config=config, argv=argv, fingerprints=fingerprints)
        return new, False
    run = open(workdir)
    check_resume(run, config, fingerprints)
    return run, True


def check_resume(
    run: RunFolder, config: Any, fingerprints: Mapping[str, Mapping[str, str]]
) -> None:
    """Checks that a run may go on under `config` with these base model, tokenizer and data.

    Raises:
      UserError: naming every differing key that is not in `MAY_CHANGE_ON_RESUME`, with both values.
    """
    # Imported here because it needs ml_collections, and `megan --help` comes through this module.
    from megan_jax.config import flatten

    old, new = flatten(run.config), flatten(plain(config))
    missing = object()
    shown = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key, missing), new.get(key, missing)
        if before == now or _may_change(key):
            continue
        texts = ["absent" if v is missing else json.dumps(v) for v in (before, now)]
        shown.append(f"  {key}: {texts[0]} in the run, {texts[1]} now")
    if shown:
        raise UserError(
            f"{run.path} was started with another configuration:\n" + "\n".join(shown) + "\n"
            "Go on with the run's own values, or choose another --workdir."
        )
    check_fingerprints(run.info.get("fingerprints", {}), fingerprints, str(run.path))


def check_fingerprints(
    saved: Mapping[str, Mapping[str, str]],
    current: Mapping[str, Mapping[str, str]],
    where: str,
) -> None:
    """Compares the fingerprints named in `current` with those that were saved.

    Raises:
      UserError: naming the first thing that differs, both sources and both fingerprints.
    """
    for name, now in current.items():
        before = saved.get(name, {"source": "unknown", "fingerprint": "none"})
        if before["fingerprint"] != now["fingerprint"]:
            thing = name.replace("_", " ")
            raise UserError(
                f"{where} belongs to another {thing}: it was made with {before['source']} "
                f"(fingerprint {before['fingerprint']}), now given is {now['source']} "
                f"(fingerprint {now['fingerprint']}). Use the same {thing}, or start a new run."
            )


def _may_change(key: str) -> bool:
    return any(
        key.startswith(pattern[:-1]) if pattern.endswith(".*") else key == pattern
        for pattern in MAY_CHANGE_ON_RESUME
    )


@contextlib.contextmanager
def lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps a second process out of a run folder while the block runs.

    The kernel drops the lock when the process ends, however it ends, so nothing stale is left.

    Raises:
      UserError: another process holds the folder (its pid and host are named), or it is unwritable.
    """
    file = Path(path) / LOCK_FILE
    with user_errors(file):
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"{path} is in use by another process ({holder}). Wait for it, stop it, or choose "
                "another --workdir."
            ) from error
        except OSError as error:
            _log.warning("%s: this file system has no locks (%s).", file, error.strerror)
        with user_errors(file):
            os.ftruncate(handle, 0)
            os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)
