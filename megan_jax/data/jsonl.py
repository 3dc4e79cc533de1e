"""Files of `messages` rows, one JSON object per line, and the authors' task descriptions."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import yaml

from megan_jax.data.example import Example, check_condition_type
from megan_jax.data.files import read_text, write_files
from megan_jax.data.rows import Problem, load_object, parse_row
from megan_jax.errors import UserError, nearest

ON_ERROR = ("error", "skip")
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a file gave: its examples, how many lines were set aside, and where these are."""

    examples: list[Example]
    skipped: int = 0
    quarantine: Path | None = None


@dataclasses.dataclass(frozen=True)
class TaskDescriptions:
    """The authors' task_descs.yaml.

    Attributes:
      by_task: task name to its descriptions.
      nameless: descriptions whose task name is lost: in the authors' file a bare list under a key
        that is literally `descriptions`.
    """

    by_task: dict[str, tuple[str, ...]]
    nameless: tuple[str, ...] = ()


def read_jsonl(
    path: str | Path,
    condition_type: str | None = None,
    on_error: str = "error",
    quarantine: str | Path | None = None,
    *,
    task_descriptions: Mapping[str, tuple[str, ...]] | None = None,
    need_answer: bool = True,
) -> list[Example]:
    """The examples of a file; see `load_jsonl`, which also tells what was set aside."""
    loaded = load_jsonl(
        path,
        condition_type,
        on_error,
        quarantine,
        task_descriptions=task_descriptions,
        need_answer=need_answer,
    )
    return loaded.examples


def load_jsonl(
    path: str | Path,
    condition_type: str | None = None,
    on_error: str = "error",
    quarantine: str | Path | None = None,
    *,
    task_descriptions: Mapping[str, tuple[str, ...]] | None = None,
    need_answer: bool = True,
) -> Loaded:
    """Reads a file of `messages` rows.

    Args:
      path: the file, UTF-8, one JSON object per line.
      condition_type: the type of every row's condition; None infers it from its field.
      on_error: `error` stops at the first bad line; `skip` sets bad lines aside, verbatim, in
        `<name>.quarantine.jsonl`, and why in `<name>.quarantine.txt`.
      quarantine: the folder for these two files; None is the folder of `path`.
      task_descriptions: wordings by task name, which become paraphrases of a row's condition.
      need_answer: the last message of a row must be the assistant's.

    Raises:
      UserError: the file cannot be read, holds no (good) row, or has a bad line and `on_error` is
        `error`; the message names file, line and field.
    """
    path = Path(path)
    if on_error not in ON_ERROR:
        raise UserError(
            f"data.on_error is {on_error!r}; it is one of {', '.join(ON_ERROR)}."
            f"{nearest(on_error, ON_ERROR)}"
        )
    examples: list[Example] = []
    bad_lines: list[bytes] = []
    reasons: list[str] = []
    for number, raw, outcome in _read(path, condition_type, task_descriptions, need_answer):
        if isinstance(outcome, Example):
            examples.append(outcome)
            continue
        if on_error == "error":
            raise UserError(
                f"{path}:{number}: {outcome[0]} `python -m megan_jax.data check {path}` lists "
                "every problem; data.on_error=skip sets bad lines aside."
            )
        bad_lines.append(raw if raw.endswith(b"\n") else raw + b"\n")
        reasons += [f"{path.name}:{number}: {problem}\n" for problem in outcome]
    if not examples:
        total = f"none of its {len(bad_lines)} lines is a good row" if bad_lines else "it is empty"
        first = f" First: {reasons[0].strip()}" if reasons else ""
        raise UserError(f"{path}: no rows to use: {total}.{first}")
    if not bad_lines:
        return Loaded(examples)
    folder = Path(quarantine) if quarantine is not None else path.parent
    target = folder / f"{path.stem}.quarantine.jsonl"
    write_files(
        folder,
        {
            target.name: b"".join(bad_lines),
            f"{path.stem}.quarantine.txt": "".join(reasons).encode("utf-8"),
        },
    )
    logging.getLogger(__name__).warning(
        "%s: skipped %d of %d lines; they are in %s",
        path,
        len(bad_lines),
        len(bad_lines) + len(examples),
        target,
    )
    return Loaded(examples, len(bad_lines), target)


def problems(
    path: str | Path, condition_type: str | None = None, need_answer: bool = True
) -> Iterator[Problem]:
    """Every problem of a file, line by line; UserError only if it cannot be read at all."""
    empty = True
    for _, _, outcome in _read(Path(path), condition_type, None, need_answer):
        empty = False
        if not isinstance(outcome, Example):
            yield from outcome
    if empty:
        yield Problem(0, "", "the file is empty; it needs one JSON object per line.")


def check_file(
    path: str | Path, condition_type: str | None = None, out: TextIO | None = None
) -> int:
    """Prints every problem of a file, or its counts per condition type; returns the bad lines."""
    path = Path(path)
    counts: Counter[str] = Counter()
    bad = total = 0
    for number, _, outcome in _read(path, condition_type, None, True):
        if isinstance(outcome, Example):
            counts[outcome.condition_type] += 1
            continue
        bad += 1
        for problem in outcome:
            total += 1
            print(f"{path}:{number}: {problem}", file=out)
    rows = sum(counts.values())
    if not rows and not bad:
        print(f"{path}: the file is empty; it needs one JSON object per line.", file=out)
        return 1
    if bad:
        print(f"{path}: {total} problems in {bad} of {rows + bad} lines", file=out)
    else:
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        print(f"{path}: {rows} rows, no problems ({listed})", file=out)
    return bad


def load_task_descriptions(path: str | Path) -> TaskDescriptions:
    """Reads the authors' task_descs.yaml: `task: {descriptions: [text, …]}`.

    Raises:
      UserError: not readable, not YAML, or of another shape.
    """
    path = Path(path)
    try:
        fields = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or "cannot be parsed"
        raise UserError(f"{path}{line}: not valid YAML: {reason}.") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: needs the shape `task: {{descriptions: [text, …]}}`.")
    by_task: dict[str, tuple[str, ...]] = {}
    nameless: tuple[str, ...] = ()
    for task, entry in fields.items():
        if task == "descriptions" and isinstance(entry, list):
            nameless = _descriptions(path, task, entry)
        elif isinstance(entry, dict) and set(entry) == {"descriptions"}:
            by_task[str(task)] = _descriptions(path, task, entry["descriptions"])
        else:
            raise UserError(f"{path}: task {task!r} needs one field, `descriptions: [text, …]`.")
    return TaskDescriptions(by_task, nameless)


def _descriptions(path: Path, task: str, entry: object) -> tuple[str, ...]:
    good = isinstance(entry, list) and all(isinstance(t, str) and t.strip() for t in entry)
    if not good or not entry:
        raise UserError(f"{path}: the descriptions of {task!r} are not a list of texts.")
    return tuple(entry)


def _read(
    path: Path,
    condition_type: str | None,
    task_descriptions: Mapping[str, tuple[str, ...]] | None,
    need_answer: bool,
) -> Iterator[tuple[int, bytes, Example | list[Problem]]]:
    """Each line: its number, its bytes, and the example or what is wrong."""
    if condition_type is not None:
        check_condition_type(condition_type)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a JSONL file is needed.")
    try:
        with path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                outcome = _decode(raw, number)
                if not isinstance(outcome, str):
                    yield number, raw, outcome
                    continue
                try:
                    row = load_object(outcome)
                except ValueError as error:
                    yield number, raw, [Problem(number, "", str(error))]
                    continue
                yield (
                    number,
                    raw,
                    parse_row(
                        row,
                        number,
                        condition_type=condition_type,
                        source=f"{path}:{number}",
                        task_descriptions=task_descriptions,
                        need_answer=need_answer,
                    ),
                )
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None


def _decode(raw: bytes, number: int) -> str | list[Problem]:
    """The text of a line, or what is wrong with its bytes."""

    def wrong(reason: str) -> list[Problem]:
        return [Problem(number, "", reason)]

    if number == 1 and raw.startswith(_BOM):
        return wrong("starts with a byte order mark; save the file as UTF-8 without one.")
    if number == 1 and raw.startswith(_WIDE_BOMS):
        return wrong("is UTF-16; save the file as UTF-8.")
    if not raw.strip():
        return wrong("is an empty line; remove it.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return wrong(f"is not UTF-8 (byte {error.start + 1} of the line); save it as UTF-8.")
