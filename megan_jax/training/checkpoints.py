"""Checkpoints that can be trusted: whole or not there, and never of another run.

A checkpoint is a folder `checkpoints/STEP/` that Orbax writes under a temporary name, in the
background, and renames when it is complete:

    state/        the trainable parameters, the optimizer's state and the step, as Orbax arrays
    meta/         JSON: what the caller gave (config, fingerprints), and each leaf's shape
    files.json    name and size of every file, so that a damaged checkpoint is known by its name

Only `trainable` parameters are in it; the frozen base model is named by its fingerprint.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from megan_jax.errors import UserError
from megan_jax.run_folder import check_fingerprints, explain_os_error, plain, user_errors
from megan_jax.training.leaves import check_leaves, describe, named_leaves, nest, parse, target_of

FORMAT = 1
_FILES = "files.json"
# Orbax writes these two after the list is made; a restore needs neither.
_UNLISTED = ("_CHECKPOINT_METADATA", "commit_success.txt", _FILES)
_PARAMETERS = ("trainable/", "fixed/")
_TEMPORARY = ".orbax-checkpoint-tmp"

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, for the process that trains it.

    Opening it removes what an interrupted save left behind, so hold the run folder's lock.

    Args:
      directory: `checkpoints/` of the run folder; it is created.
      keep: how many of the newest are kept.

    Raises:
      UserError: the folder cannot be made or written.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 2) -> None:
        self._directory = Path(directory).resolve()
        self._saving: int | None = None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            enable_async_checkpointing=True,
            # In the background, a folder that cannot be made leaves threads that block the exit.
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._list_files,
                create_directories_asynchronously=False,
            ),
        )
        _silence_orbax()
        with user_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, item_names=("state", "meta")
            )

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> bool:
        """Starts saving and returns once `state` is copied from the devices.

        Args:
          step: the number of finished steps.
          state: a pytree of arrays with `trainable` at its top level, as key or attribute.
          meta: what JSON can hold; `fingerprints` is checked on restore (see `run_folder`).

        Returns:
          False if there is a checkpoint of this step already, which stays as it is.

        Raises:
          UserError: this or the previous save failed: full disk, read-only folder, … What was
            written of it is removed; older checkpoints stay.
        """
        self.wait()
        if step in _committed(self._directory):
            return False
        leaves = named_leaves(state)
        if not any(name.startswith("trainable/") for name in leaves):
            raise ValueError(f"the state has no `trainable` part, only {sorted(leaves)}")
        document = {"format": FORMAT, "leaves": describe(leaves), "meta": plain(meta)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(nest(leaves)), meta=ocp.args.JsonSave(document)
        )
        self._saving = step
        with self._save_errors():
            _check_room(self._directory, sum(leaf.nbytes for leaf in leaves.values()))
            self._manager.save(step, args=items, force=True)
        return True

    def latest_step(self) -> int | None:
        """The newest step with a complete and undamaged checkpoint; None if none was ever saved.

        Raises:
          UserError: there are checkpoints and all are damaged, which is no reason to start anew.
        """
        damaged = []
        for step in _committed(self._directory):
            damage = _damage(self._directory / str(step))
            if damage is None:
                return step
            damaged.append(damage)
        if damaged:
            raise _none_usable(self._directory, damaged)
        return None

    def restore(
        self,
        abstract_state: Any,
        step: int | None = None,
        *,
        fingerprints: Mapping[str, Mapping[str, str]] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Restores the newest good checkpoint, or that of `step`.

        A damaged newer one is named in a warning and set aside as `damaged-STEP`, so that
        training can save that step again.

        Args:
          abstract_state: the state's tree with ShapeDtypeStructs (or arrays) as leaves. A leaf's
            sharding says where its values go; without one they go to the first device.
          step: exactly this one; None: the newest good one.
          fingerprints: what the run uses now; compared with what the checkpoint was made with.

        Returns:
          (the state in the tree of `abstract_state`, the `meta` that was saved).

        Raises:
          UserError: no checkpoint, no good one, one with other leaves, or other fingerprints.
        """
        self.wait()
        targets = {name: target_of(leaf) for name, leaf in named_leaves(abstract_state).items()}

        def read(path: Path, document: dict[str, Any]) -> dict[str, Any]:
            check_fingerprints(
                document["meta"].get("fingerprints", {}), fingerprints or {}, str(path)
            )
            check_leaves(document["leaves"], describe(targets), path)
            return _read_arrays(path, targets)

        damaged, document, leaves = _read_newest(self._directory, step, read)
        if damaged and jax.process_index() == 0:
            with user_errors(self._directory):
                for number in damaged:
                    aside = self._directory / f"damaged-{number}"
                    shutil.rmtree(aside, ignore_errors=True)
                    (self._directory / str(number)).rename(aside)
        self._manager.reload()
        order = list(named_leaves(abstract_state))
        tree = jax.tree.structure(abstract_state)
        return jax.tree.unflatten(tree, [leaves[name] for name in order]), document["meta"]

    def wait(self) -> None:
        """Waits until the save that is running is complete.

        Raises:
          UserError: it failed; see `save`.
        """
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the running save and releases Orbax's threads.

        Raises:
          UserError: the save failed; see `save`.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
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

    def _remove_unfinished(self) -> None:
        if jax.process_index() == 0:
            for leftover in self._directory.glob(f"*{_TEMPORARY}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _list_files(self) -> None:
        # Orbax calls this in its thread when all is written, before the rename that commits it.
        if jax.process_index() != 0:
            return
        (folder,) = self._directory.glob(f"{self._saving}{_TEMPORARY}*")
        sizes = {
            str(file.relative_to(folder)): file.stat().st_size
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name not in _UNLISTED
        }
        (folder / _FILES).write_text(json.dumps(sizes, indent=1), encoding="utf-8")

    @contextlib.contextmanager
    def _save_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            reason = _save_failure(error, self._directory)
            if reason is None:
                raise
            self._remove_unfinished()
            kept = _committed(self._directory)
            have = (
                f"The newest checkpoint is {self._directory / str(kept[0])}."
                if kept
                else ("There is no earlier checkpoint.")
            )
            raise UserError(
                f"the checkpoint of step {self._saving} could not be saved: {reason} {have}"
            ) from error


def load_parameters(
    directory: str | os.PathLike[str], step: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads only the parameters, for evaluation and generation; changes nothing.

    These are the trainable ones and those under `fixed`: not trained, but of no other source.

    A training run may be writing to the folder at the same time.

    Returns:
      (nested dicts of numpy arrays, the `meta` that was saved).

    Raises:
      UserError: no checkpoint, or no good one.
    """

    def read(path: Path, document: dict[str, Any]) -> dict[str, Any]:
        targets = {
            name: parse(text)
            for name, text in document["leaves"].items()
            if name.startswith(_PARAMETERS)
        }
        leaves = _read_arrays(path, targets)
        return nest({name.partition("/")[2]: leaf for name, leaf in leaves.items()})

    _, document, tree = _read_newest(Path(directory).resolve(), step, read)
    return tree, document["meta"]


def _read_newest(
    directory: Path,
    step: int | None,
    read: Callable[[Path, dict[str, Any]], dict[str, Any]],
) -> tuple[list[int], dict[str, Any], dict[str, Any]]:
    """Returns (damaged newer steps, the good one's meta document, what `read` returned)."""
    _silence_orbax()
    steps = _committed(directory)
    if step is not None:
        if step not in steps:
            have = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{directory} has no checkpoint of step {step}; it has: {have}.")
        steps = [step]
    if not steps:
        raise UserError(f"{directory}: there is no checkpoint. Train the run first.")
    damaged: dict[int, str] = {}
    for number in steps:
        path = directory / str(number)
        damage = _damage(path)
        if damage is None:
            try:
                document = json.loads((path / "meta" / "metadata").read_text(encoding="utf-8"))
                result = read(path, document)
            except UserError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds.
                damage = f"{path} cannot be read: {str(error).splitlines()[0][:300]}"
            else:
                for text in damaged.values():
                    _log.warning("%s; using the checkpoint of step %d instead.", text, number)
                return list(damaged), document, result
        damaged[number] = damage
    raise _none_usable(directory, damaged.values())


def _none_usable(directory: Path, damaged: Iterable[str]) -> UserError:
    return UserError(
        f"{directory}: no usable checkpoint. {'; '.join(damaged)}. Restore the files from a copy, "
        "or train again in a new folder."
    )


def _committed(directory: Path) -> list[int]:
    """The steps with a complete checkpoint, newest first."""
    if not directory.is_dir():
        return []
    names = (p.name for p in directory.iterdir() if p.name.isdigit() and p.is_dir())
    return sorted(map(int, names), reverse=True)


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, or None."""
    try:
        sizes = json.loads((path / _FILES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path / _FILES} is missing"
    except (OSError, ValueError):
        return f"{path / _FILES} is damaged"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"{file} is missing"
        if (actual := file.stat().st_size) != size:
            return f"{file} is truncated ({actual:,} bytes of {size:,})"
    return None


def _read_arrays(path: Path, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """Reads the named leaves: into their target's sharding, or as numpy arrays if it has none."""

    def how(target: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
        if target.sharding is None:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(
            sharding=target.sharding, global_shape=target.shape, dtype=target.dtype
        )

    arguments = nest({name: how(target) for name, target in targets.items()})
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.restore(
            path / "state",
            args=ocp.args.PyTreeRestore(
                item=nest(targets), restore_args=arguments, partial_restore=True
            ),
        )
    return named_leaves(tree)


def _check_room(directory: Path, size: int) -> None:
    """Raises OSError if `size` bytes cannot be written, which Orbax finds out halfway only."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            free = shutil.disk_usage(directory).free
    except OSError as error:  # It would carry the temporary name.
        raise OSError(error.errno, error.strerror, str(directory)) from None
    # Numbers hardly compress; the rest is Orbax's own files and block sizes.
    if free < size + 64 * 1024:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _save_failure(error: OSError | ValueError, directory: Path) -> str | None:
    """One sentence for a failed write that a user can mend, else None."""
    if isinstance(error, OSError):
        return explain_os_error(error, directory)
    # TensorStore raises ValueError with the status and, at its end, the system's error number.
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return explain_os_error(OSError(int(code[1]), os.strerror(int(code[1]))), directory)
    return None


def _silence_orbax() -> None:
    """Keeps Orbax's log off the terminal: what it reports there, it also raises."""
    logger = logging.getLogger("absl")
    if _not_orbax not in logger.filters:
        logger.addFilter(_not_orbax)


def _not_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
