"""One JSON object in the `messages` format as an Example, or everything that is wrong with it.

The format is the MeGan authors' (`dataset_info.json` and its sample files): the condition stands
in `task_description`, `domain` or `user_profiles` of the row, or in `style` or `sentiment` of the
assistant message. Our own rows may say `condition_type` and `condition` instead.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from megan_jax.data.example import CONDITION_TYPES, ROLES, Example, Message
from megan_jax.errors import nearest

ROW_CONDITIONS = {"task_description": "task", "domain": "domain", "user_profiles": "persona"}
MESSAGE_CONDITIONS = {"style": "style", "sentiment": "sentiment"}
ROW_FIELDS = (
    "messages",
    *ROW_CONDITIONS,
    "task",
    "context",
    "history",
    "condition_type",
    "condition",
    "condition_key",
    "paraphrases",
    "options",
    "instruction",
)
# Fields that carry no text of the conversation; they are read over.
NOTES = ("id", "index", "source", "split", "task_name", "style_domain", "metadata")
MESSAGE_FIELDS = ("role", "content", "instruction", *MESSAGE_CONDITIONS)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with a line of a file.

    Attributes:
      line: from 1; 0 for the file as a whole.
      field: e.g. `messages[0].content`; `""` for the line as a whole.
      reason: what is wrong and what to do.
    """

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}" if self.field else self.reason


class _Row:
    """A row being read; collects problems instead of stopping at the first."""

    def __init__(self, fields: Mapping[str, Any], line: int):
        self.fields, self.line = fields, line
        self.problems: list[Problem] = []

    def wrong(self, field: str, reason: str) -> None:
        self.problems.append(Problem(self.line, field, reason))

    def text(self, value: Any, field: str, default: str = "") -> str:
        """A text that may be absent (None)."""
        if value is None:
            return default
        if not isinstance(value, str):
            self.wrong(field, f"is {_kind(value)}, not text.")
            return default
        if not _encodable(value):
            self.wrong(field, "holds half of a surrogate pair, which is not text.")
            return default
        return value

    def texts(self, value: Any, field: str) -> tuple[str, ...]:
        """A list of texts that may be absent (None)."""
        if value is None:
            return ()
        if not isinstance(value, list):
            self.wrong(field, f"is {_kind(value)}, not a list of texts.")
            return ()
        return tuple(self.text(item, f"{field}[{i}]") for i, item in enumerate(value) if item != "")


def parse_row(
    row: Any,
    line: int,
    *,
    condition_type: str | None = None,
    source: str = "",
    task_descriptions: Mapping[str, tuple[str, ...]] | None = None,
    need_answer: bool = True,
) -> Example | list[Problem]:
    """An Example, or every problem of the row.

    Args:
      row: a parsed line of JSON.
      line: its number, for messages.
      condition_type: the type of the conditions; None infers it from the field that is there.
      source: recorded in the example.
      task_descriptions: wordings by task name; the others than the row's become paraphrases.
      need_answer: the last message must be the assistant's.
    """
    if not isinstance(row, dict):
        return [Problem(line, "", f"is {_kind(row)}, not an object with a field messages.")]
    reader = _Row(row, line)
    _check_names(reader, row, (*ROW_FIELDS, *NOTES), "")
    messages = _messages(reader, need_answer)
    kind, condition = _condition(reader, condition_type)
    task = reader.text(row.get("task"), "task")
    paraphrases = reader.texts(row.get("paraphrases"), "paraphrases")
    if kind == "task" and task_descriptions:
        paraphrases += task_descriptions.get(task, ())
    instruction = _instruction(reader)
    options = reader.texts(row.get("options"), "options") or parse_options(instruction)
    key = reader.text(row.get("condition_key"), "condition_key")
    history = _history(reader)
    context = reader.text(row.get("context"), "context")
    if reader.problems:
        return reader.problems
    example = Example(
        condition_type=kind,
        condition=condition,
        messages=messages,
        instruction=instruction,
        context=context,
        history=history,
        paraphrases=tuple(dict.fromkeys(text for text in paraphrases if text != condition)),
        condition_key=key,
        options=options,
        task=task,
        source=source,
    )
    return example if key else dataclasses.replace(example, condition_key=example.key)


def parse_options(instruction: str) -> tuple[str, ...]:
    """The answer options at the end of an instruction, `…[yes; no; ]`; `()` if there are none."""
    text = instruction.rstrip()
    start = max(text.rfind("\n["), text.find("[") if text.startswith("[") else -1)
    start = start if start >= 0 else text.rfind(" [")
    if start < 0 or not text.endswith("]"):
        return ()
    inner = text[start:].lstrip()[1:-1]
    if ";" not in inner:
        return ()
    return tuple(option.strip() for option in inner.split(";") if option.strip())


def load_object(text: str) -> Any:
    """`json.loads` that refuses a field given twice; ValueError says what is wrong."""
    try:
        return json.loads(text.rstrip("\r\n"), object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON at column {error.pos + 1}: {error.msg}.") from None
    except RecursionError:
        raise ValueError("nested too deeply.") from None
    except _FieldTwice:
        raise
    except ValueError:  # Python's limit on the digits of an integer
        raise ValueError("holds a number of too many digits.") from None


class _FieldTwice(ValueError):
    """An object gives a field two values."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _FieldTwice(f"field {twice!r} is given twice.")
    return fields


def _messages(reader: _Row, need_answer: bool) -> tuple[Message, ...]:
    given = reader.fields.get("messages")
    if given is None:
        reader.wrong("messages", "is missing.")
        return ()
    if not isinstance(given, list) or not given:
        what = "is empty" if given == [] else f"is {_kind(given)}"
        reader.wrong("messages", f"{what}; a list of messages is needed.")
        return ()
    messages = []
    for index, message in enumerate(given):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            reader.wrong(place, f"is {_kind(message)}, not an object with role and content.")
            continue
        _check_names(reader, message, MESSAGE_FIELDS, f"{place}.")
        messages.append(_message(reader, message, index, last=index == len(given) - 1))
    roles = [message.role for message in messages]
    if len(roles) == len(given) and all(role in ROLES for role in roles):
        if need_answer and roles[-1] != "assistant":
            reader.wrong(
                f"messages[{len(roles) - 1}].role",
                f"is {roles[-1]!r}; the last message must be the assistant's answer.",
            )
        if set(roles) == {"system"}:
            reader.wrong("messages", "holds no message of a user or an assistant.")
    return tuple(messages)


def _message(reader: _Row, message: Mapping[str, Any], index: int, last: bool) -> Message:
    place = f"messages[{index}]"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        what = "is missing" if role is None else f"is {role!r}"
        hint = nearest(role, ROLES) if isinstance(role, str) else ""
        reader.wrong(f"{place}.role", f"{what}; it is one of {', '.join(ROLES)}.{hint}")
    elif role == "system" and index:
        reader.wrong(f"{place}.role", "is 'system'; only the first message may be.")
    if content is None:
        reader.wrong(f"{place}.content", "is missing.")
    elif content == "" and role == "assistant":
        reader.wrong(f"{place}.content", "is empty; an answer is needed.")
    elif content == "" and last:
        reader.wrong(f"{place}.content", "is empty; a question is needed.")
    return Message(str(role), reader.text(content, f"{place}.content"))


def _condition(reader: _Row, wanted: str | None) -> tuple[str, str | tuple[str, ...] | None]:
    """The type and the condition; the type `""` if there is a problem."""
    given = reader.text(reader.fields.get("condition_type"), "condition_type")
    if given and given not in CONDITION_TYPES:
        reader.wrong(
            "condition_type",
            f"unknown condition type {given!r}; it is one of {', '.join(CONDITION_TYPES)}."
            f"{nearest(given, CONDITION_TYPES)}",
        )
        return "", None
    if given and wanted and given != wanted:
        reader.wrong("condition_type", f"is {given!r}, but the type {wanted!r} was asked for.")
        return "", None
    kind = given or wanted or ""
    found = _condition_fields(reader)
    if "condition" in found and not kind:
        reader.wrong("condition_type", f"is missing; it is one of {', '.join(CONDITION_TYPES)}.")
        return "", None
    candidates = {
        field: value for field, (own, value) in found.items() if not kind or own in (kind, "")
    }
    if len(candidates) > 1:  # fields that are null yield to one that is not
        candidates = {f: v for f, v in candidates.items() if v is not None} or candidates
    if len(candidates) > 1:
        names = " and ".join(candidates)
        reader.wrong(
            next(iter(candidates)),
            f"the row has {names}; say which with condition_type (one of "
            f"{', '.join(CONDITION_TYPES)}).",
        )
        return "", None
    if not candidates:
        _missing_condition(reader, kind, found)
        return "", None
    field, value = next(iter(candidates.items()))
    return kind or found[field][0], _condition_value(reader, value, field)


def _condition_fields(reader: _Row) -> dict[str, tuple[str, Any]]:
    """Every field that holds a condition: its name to (type, value); type `""` is any."""
    found: dict[str, tuple[str, Any]] = {}
    if "condition" in reader.fields:
        found["condition"] = ("", reader.fields["condition"])
    for name, kind in ROW_CONDITIONS.items():
        if name in reader.fields:
            found[name] = (kind, reader.fields[name])
    messages = reader.fields.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        for name, kind in MESSAGE_CONDITIONS.items():
            if not isinstance(message, dict) or name not in message:
                continue
            place = f"messages[{index}].{name}"
            others = [key for key, (other, _) in found.items() if other == kind]
            if not others:
                found[place] = (kind, message[name])
            elif found[others[0]][1] != message[name]:
                reader.wrong(place, f"differs from {others[0]}; a row has one condition.")
    return found


def _missing_condition(reader: _Row, kind: str, found: Mapping[str, Any]) -> None:
    fields = {
        **{own: name for name, own in ROW_CONDITIONS.items()},
        **{own: f"messages[i].{name}" for name, own in MESSAGE_CONDITIONS.items()},
    }
    if kind:
        others = f" (it has {', '.join(found)})" if found else ""
        reader.wrong(
            fields[kind].replace("[i]", ""),
            f"is missing; a row of type {kind!r} needs it or condition{others}.",
        )
        return
    reader.wrong(
        "condition",
        f"no field holds a condition: none of {', '.join(fields.values())}, and no condition; "
        "for no condition give condition_type and condition: null.",
    )


def _condition_value(reader: _Row, value: Any, field: str) -> str | tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, list):
        lines = reader.texts(value, field)
        if not any(line.strip() for line in lines):
            reader.wrong(field, "is empty; a condition needs text (null is no condition).")
        return lines
    if isinstance(value, str) and not value.strip():
        reader.wrong(field, "is empty; a condition needs text (null is no condition).")
    return reader.text(value, field)


def _instruction(reader: _Row) -> str:
    """The instruction of the row or of its messages; they must not differ."""
    found = {"instruction": reader.fields.get("instruction")}
    messages = reader.fields.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict):
            found[f"messages[{index}].instruction"] = message.get("instruction")
    texts = {field: reader.text(value, field) for field, value in found.items()}
    distinct = {text: field for field, text in reversed(texts.items()) if text}
    if len(distinct) > 1:
        reader.wrong(next(iter(distinct.values())), "differs from another instruction of the row.")
    return next(reversed(distinct), "")


def _history(reader: _Row) -> tuple[tuple[str, str], ...]:
    given = reader.fields.get("history")
    if given is None or given == "":
        return ()
    if not isinstance(given, list):
        reader.wrong("history", f"is {_kind(given)}, not a list of [user, assistant] pairs.")
        return ()
    pairs = []
    for index, pair in enumerate(given):
        if not isinstance(pair, list) or len(pair) != 2:
            reader.wrong(f"history[{index}]", "is not a pair [user, assistant].")
            continue
        pairs.append(
            (
                reader.text(pair[0], f"history[{index}][0]"),
                reader.text(pair[1], f"history[{index}][1]"),
            )
        )
    return tuple(pairs)


def _check_names(
    reader: _Row, fields: Mapping[str, Any], known: tuple[str, ...], place: str
) -> None:
    for name in fields:
        if name not in known:
            hint = nearest(name, known) or " Remove it, or keep notes under the row's 'metadata'."
            reader.wrong(f"{place}{name}", f"unknown field.{hint}")


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(type(value), "a number")
