"""One training or evaluation row: a conversation, and the condition under which it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from megan_jax.errors import UserError, nearest

CONDITION_TYPES = ("task", "domain", "persona", "style", "sentiment")
ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    Attributes:
      role: one of `ROLES`.
      content: its text.
    """

    role: str
    content: str


@dataclasses.dataclass(frozen=True)
class Example:
    """A conversation and its condition. Checked when made: raises UserError naming `source`.

    Attributes:
      condition_type: one of `CONDITION_TYPES`.
      condition: the condition in plain text; a tuple holds the profile lines of a persona; None
        is no condition (the base model).
      messages: the conversation; at most one system message, first. The answer is the last
        assistant message.
      instruction: how to answer, e.g. the answer options. Not part of the condition.
      context: text that the question is about, shown before it.
      history: earlier (user, assistant) turns.
      paraphrases: other wordings of the same condition; the condition itself is not among them.
      condition_key: the identity of the condition (e.g. the task's name); a mismatched condition
        is drawn among other keys of the same type. Falls back to `task` for a task, else to the
        condition's text: see `key`.
      options: the answer options, where the data has them.
      task: the name of the data set or task.
      source: where the row comes from, `file:line` or `suite/type/split/index`.
    """

    condition_type: str
    condition: str | tuple[str, ...] | None
    messages: tuple[Message, ...]
    instruction: str = ""
    context: str = ""
    history: tuple[tuple[str, str], ...] = ()
    paraphrases: tuple[str, ...] = ()
    condition_key: str = ""
    options: tuple[str, ...] = ()
    task: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise UserError(f"{self.source}: {problem}" if self.source else problem)

    @property
    def condition_text(self) -> str | None:
        """The bare condition; profile lines are joined by newlines."""
        return join_condition(self.condition)

    @property
    def key(self) -> str:
        """The identity of the condition, `""` without one."""
        if self.condition is None:
            return self.condition_key
        named = self.condition_key or (self.task if self.condition_type == "task" else "")
        return named or (self.condition_text or "")

    @property
    def answer(self) -> str | None:
        """The content of the last message if the assistant speaks last, else None."""
        last = self.messages[-1]
        return last.content if last.role == "assistant" else None

    def with_answer(self, answer: str) -> Example:
        """The example with another answer, e.g. one of its options."""
        turns = self.messages if self.answer is None else self.messages[:-1]
        return dataclasses.replace(self, messages=(*turns, Message("assistant", answer)))


def join_condition(condition: str | Sequence[str] | None) -> str | None:
    """One text for a condition: profile lines are joined by newlines, None stays None."""
    if condition is None or isinstance(condition, str):
        return condition
    return "\n".join(condition)


def check_condition_type(name: object) -> str:
    """Returns `name` if it is a condition type, else raises UserError with the nearest one."""
    if name in CONDITION_TYPES:
        return str(name)
    raise UserError(
        f"unknown condition type {name!r}; it is one of {', '.join(CONDITION_TYPES)}."
        f"{nearest(str(name), CONDITION_TYPES)}"
    )


def _problem(example: Example) -> str | None:
    """What is wrong with an example, in words; None for a good one."""
    try:
        check_condition_type(example.condition_type)
    except UserError as error:
        return str(error)
    return _condition_problem(example.condition) or _message_problem(example.messages)


def _condition_problem(condition: object) -> str | None:
    if condition is None:
        return None
    if not isinstance(condition, str | tuple):
        return f"the condition is a {type(condition).__name__}; it is text or a tuple of lines."
    lines = (condition,) if isinstance(condition, str) else condition
    if not all(isinstance(line, str) for line in lines):
        return "a line of the condition is not text."
    if not any(line.strip() for line in lines):
        return "the condition is empty; leave it out (None) for no condition."
    return None


def _message_problem(messages: Sequence[Message]) -> str | None:
    if not messages:
        return "there are no messages."
    for index, message in enumerate(messages):
        if message.role not in ROLES:
            return (
                f"messages[{index}].role is {message.role!r}; it is one of {', '.join(ROLES)}."
                f"{nearest(str(message.role), ROLES)}"
            )
        if not isinstance(message.content, str):
            return f"messages[{index}].content is not text."
        if message.role == "system" and index:
            return f"messages[{index}] is a system message; only the first message may be one."
    return None
