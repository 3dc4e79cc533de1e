"""Rows that ask for an answer: a prompt and a condition, or a conversation as in training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from megan_jax.data.files import read_text
from megan_jax.data.jsonl import read_jsonl
from megan_jax.data.prompts import render
from megan_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Request:
    """One answer to generate.

    Attributes:
      row: the input line as it was, to be repeated in the output.
      messages: the conversation, ending with the user.
      condition: its condition, None for the base model.
    """

    row: dict[str, Any]
    messages: tuple[dict[str, str], ...]
    condition: str | None


def read_requests(
    path: Path, condition: str | None = None, placement: str = "none", expression: str = "raw"
) -> list[Request]:
    """Reads a JSONL file of requests.

    A row is `{"prompt": TEXT}` with an optional `"condition"` (text; null or "None": none), or a
    `messages` row as in training, whose last answer is left out.

    Args:
      path: the file.
      condition: of rows that name none.
      placement, expression: for `messages` rows, see `prompts.render`.

    Raises:
      UserError: naming file, line and field of a row that is not a request.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a row is a JSON object, got {type(row).__name__}.")
        rows.append((number, row))
    if not rows:
        raise UserError(f"{path}: the file has no rows.")
    if all("messages" in row for _, row in rows):
        return _conversations(path, [row for _, row in rows], placement, expression)
    return [_prompt(row, f"{path}:{number}", condition) for number, row in rows]


def _prompt(row: dict[str, Any], where: str, condition: str | None) -> Request:
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f'{where}: field "prompt" must be a text that is not empty.')
    own = row.get("condition", condition)
    if own is not None and not isinstance(own, str):
        raise UserError(f'{where}: field "condition" must be a text or null.')
    if own is not None and not own.strip():
        raise UserError(f'{where}: field "condition" is empty; use null for no condition.')
    own = None if own == "None" else own
    return Request(row, ({"role": "user", "content": prompt},), own)


def _conversations(
    path: Path, rows: list[dict[str, Any]], placement: str, expression: str
) -> list[Request]:
    requests = []
    for row, example in zip(rows, read_jsonl(path, need_answer=False), strict=True):
        rendered = render(example, placement, expression)
        turns = [{"role": turn.role, "content": turn.content} for turn in rendered.turns]
        if turns[-1]["role"] == "assistant":
            turns = turns[:-1]
        if rendered.system:
            turns = [{"role": "system", "content": rendered.system}, *turns]
        requests.append(Request(row, tuple(turns), rendered.condition_text))
    return requests
