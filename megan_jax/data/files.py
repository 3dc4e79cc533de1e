"""Small files read and written whole, with one clear message where that fails."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megan_jax.errors import UserError


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; UserError if it cannot be read."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}).") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError for anything else."""
    try:
        fields = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: holds a {type(fields).__name__}; an object is needed.")
    return fields


def write_files(directory: str | Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a folder, each whole or not at all; UserError if that fails."""
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            partial = folder / f".{name}.partial"
            try:
                partial.write_bytes(content)
                os.replace(partial, folder / name)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written: {error.strerror}."
        ) from None


def write_texts(directory: str | Path, files: Mapping[str, str]) -> None:
    """As `write_files`, for UTF-8 text."""
    write_files(directory, {name: text.encode("utf-8") for name, text in files.items()})
