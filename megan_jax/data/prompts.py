"""Where the condition stands in the prompt, and in which words.

The condition always reaches the hypernetwork; here it is also written into the prompt if wanted.
Reference: `get_style_expression` of the MeGan authors' training code (wording `reference_train`)
and of their evaluation (`reference_eval`), which differ and guess the kind of condition from
words in the instruction. The default wording goes by the example's condition type.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from megan_jax.data.example import Example, Message, join_condition
from megan_jax.errors import UserError, nearest

PLACEMENTS = ("none", "system", "query")
EXPRESSIONS = ("raw", "with_instruction")
WORDINGS = ("default", "reference_train", "reference_eval")
SENTIMENTS = ("very positive", "positive", "neutral", "negative", "very negative")

Condition = str | tuple[str, ...] | None


class Own:
    """The condition of the example itself."""

    def __repr__(self) -> str:
        return "OWN"


OWN: Final = Own()


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A prompt in the making.

    Attributes:
      system: the system message, `""` for none.
      turns: user and assistant messages, the answer included where there is one.
      condition_text: what the hypernetwork reads, None without a condition.
      history_turns: how many of `turns`, from the first, are history and not for training.
    """

    system: str
    turns: tuple[Message, ...]
    condition_text: str | None
    history_turns: int = 0


def render(
    example: Example,
    placement: str = "none",
    expression: str = "raw",
    wording: str = "default",
    condition: Condition | Own = OWN,
) -> Rendered:
    """The system message, the turns and the hypernetwork's text of an example.

    Args:
      example: the row.
      placement: `none` keeps condition and instruction out of the prompt, `system` appends them
        to the system message, `query` writes them beside the first question.
      expression: what the hypernetwork reads: the `raw` condition, or a sentence around it.
      wording: `default`, or word for word as the reference trains or evaluates. History is turns
        of the conversation by default, and text in the system message in the reference.
      condition: stands in for the example's own: another wording, another condition, or None.

    Raises:
      UserError: an unknown placement, expression or wording, or an empty condition.
    """
    _check("placement", placement, PLACEMENTS)
    _check("expression", expression, EXPRESSIONS)
    _check("wording", wording, WORDINGS)
    if not isinstance(condition, Own):
        example = dataclasses.replace(example, condition=condition)
    own_system = [m.content for m in example.messages if m.role == "system"]
    turns = [m for m in example.messages if m.role != "system"]
    if not turns:
        raise UserError(f"{example.source or 'example'}: there is no user or assistant message.")
    if wording == "default":
        return _render_default(example, placement, expression, own_system, turns)
    return _render_reference(example, placement, expression, wording, own_system, turns)


def _render_default(
    example: Example, placement: str, expression: str, system: list[str], turns: list[Message]
) -> Rendered:
    condition_text = example.condition_text
    if condition_text is not None and expression == "with_instruction":
        condition_text = _default_expression(example, for_prompt=False)
    shown = _default_expression(example, for_prompt=True)
    if shown and placement == "system":
        system = [*system, shown]

    def ask(query: str) -> str:
        if example.context:
            query = f"Consider context:\n{example.context}\n\nQuestion:\n{query}"
        if not shown or placement != "query":
            return query
        if example.condition_type == "persona":
            return f"{shown}\n\n{query}" if example.context else f"{shown}\n\nQuestion:\n{query}"
        return f"{query}\n\n{shown}"

    history = [
        Message(role, text)
        for pair in example.history
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return Rendered(
        "\n\n".join(system),
        (*history, *_rewrite_question(turns, ask)),
        condition_text,
        len(history),
    )


def _default_expression(example: Example, for_prompt: bool) -> str:
    """Words for the condition by its type; without one, the instruction for the prompt."""
    condition = example.condition_text
    instruction = example.instruction.strip()
    if condition is None:
        return instruction if for_prompt else ""
    if example.condition_type == "task":
        words, around = condition, for_prompt
    elif example.condition_type == "sentiment":
        words, around = f"Reply with sentiment: {condition}", for_prompt
    elif example.condition_type == "style":
        words, around = f"Please answer the question with the style of {condition}.", for_prompt
    else:
        label = "Profiles:\n" if example.condition_type == "persona" else "Domain: "
        return "\n\n".join(filter(None, [instruction, label + condition]))
    return "\n\n".join(filter(None, [words, instruction if around else ""]))


def _render_reference(
    example: Example,
    placement: str,
    expression: str,
    wording: str,
    own_system: list[str],
    turns: list[Message],
) -> Rendered:
    condition_text = example.condition_text
    if condition_text is not None and expression == "with_instruction":
        condition_text = _reference_expression(example, wording, for_prompt=False)
    # Where the reference has nothing to add (None) it raises; we add nothing.
    shown = _reference_expression(example, wording, for_prompt=True) or ""
    system = "".join(own_system)
    if placement == "system":
        system += shown
    if example.history:
        lines = [f"user: {user}\nassistant: {reply}\n" for user, reply in example.history]
        system += "\nConversation history:\n" + "".join(lines)
    reads_context = wording == "reference_train" or example.condition_type != "domain"

    def ask(query: str) -> str:
        if example.context and reads_context:
            query = f"\nConsider context:\n{example.context}\n\n\nQuestion:\n{query}"
        if not shown or placement != "query":
            return query
        if "profile" in example.instruction:
            return f"{shown}\n\nQuestion:\n{query}"
        return f"{query}\n\n{shown}"

    return Rendered(system, tuple(_rewrite_question(turns, ask)), condition_text)


def _reference_expression(example: Example, wording: str, for_prompt: bool) -> str | None:
    """The reference's `get_style_expression` with its tests by substring, in its order."""
    condition, instruction = example.condition, example.instruction
    if condition is None:
        return instruction if for_prompt else None
    text = join_condition(condition)
    sentiment = f"Reply with sentiment: {text}" if text in SENTIMENTS else None
    if wording == "reference_eval" and sentiment:
        return sentiment
    if "profile" in instruction:
        lines = (condition,) if isinstance(condition, str) else condition
        return f"{instruction}\n\nProfiles: \n" + "".join(f"{line}\n" for line in lines)
    if "a concise summary" in instruction:
        return f"{instruction}\n\nDomain: {text}"
    if sentiment:
        return sentiment
    if instruction:
        return instruction if for_prompt else text
    if wording == "reference_eval":
        return None if for_prompt else text
    return f"Please answer the question with the style of {text}."


def _rewrite_question(turns: list[Message], ask) -> list[Message]:
    """The turns with the first user message rewritten by `ask`; later turns come after it."""
    for index, turn in enumerate(turns):
        if turn.role == "user":
            return [*turns[:index], Message("user", ask(turn.content)), *turns[index + 1 :]]
    return turns


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(
            f"{name} is {value!r}; it is one of {', '.join(known)}.{nearest(str(value), known)}"
        )
