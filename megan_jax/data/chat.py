"""Conversations as token ids, with the tokens that the assistant must produce marked.

A chat template is a program; what it made of which message is found by rendering it once with a
unique mark in the place of each content. The text between the marks is the template's own: only
there are special tokens read. The text at the marks is content: never. Joined, both must equal
what the template makes of the real conversation, so the ids are those of tokenising that text the
Hugging Face way (but for special-token text that a user typed, which stays text).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

from megan_jax.data.example import Message
from megan_jax.data.templates import DEFAULT_DATE, FALLBACKS, render_template, resolve_template
from megan_jax.data.tokenizers import Tokenizer
from megan_jax.errors import UserError

LOSS_ON = ("last", "all")
_MARK = re.compile("\ue0f0([0-9]+)\ue0f1")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation and which of them the assistant has to produce (the loss)."""

    ids: list[int]
    loss_mask: list[bool]


@dataclasses.dataclass(frozen=True)
class _Skeleton:
    """A template's text around the contents of a conversation.

    Attributes:
      literals: the text before, between and after the contents; one more than contents.
      order: for each place, the index of the message whose content stands there.
      strip: for each place, whether white space goes on the left and on the right.
    """

    literals: tuple[str, ...]
    order: tuple[int, ...]
    strip: tuple[tuple[bool, bool], ...]

    def fill(self, contents: Sequence[str]) -> list[str]:
        """The contents in order, stripped as the template does."""
        filled = []
        for index, (left, right) in zip(self.order, self.strip, strict=True):
            text = contents[index].lstrip() if left else contents[index]
            filled.append(text.rstrip() if right else text)
        return filled


def encode_chat(
    tokenizer: Tokenizer,
    template: str | None,
    system: str,
    messages: Sequence[Message],
    date: str = DEFAULT_DATE,
    add_generation_prompt: bool = False,
    loss_on: str = "last",
    first_trained: int = 0,
) -> Encoded:
    """Token ids of a conversation and its loss mask.

    The mask covers the response tokens (everything after what a generation prompt holds already)
    up to and including the token that ends the turn: the first special token that the template
    writes after the response.

    Args:
      tokenizer: turns text into ids.
      template: the name of a fallback, Jinja2 source, or None for the tokenizer's own.
      system: the system message, `""` for none (a template may then write its own).
      messages: the turns; a system message may not be among them.
      date: the day that the template is told, ISO.
      add_generation_prompt: end with the header of an assistant's turn.
      loss_on: `last` marks the last assistant turn, `all` marks each.
      first_trained: turns before this index are never marked.

    Raises:
      UserError: no template, one that refuses the conversation, has no place for a system
        message or for a turn, or changes contents in a way that cannot be followed.
    """
    if loss_on not in LOSS_ON:
        raise UserError(f"loss_on is {loss_on!r}; it is one of {', '.join(LOSS_ON)}.")
    if not system and not messages:
        raise UserError("a conversation needs at least one message.")
    source = resolve_template(tokenizer, template)
    special = _special_variables(tokenizer)
    turns = [Message("system", system), *messages] if system else list(messages)
    skeleton, contents, kept = _fit(
        source, special, date, add_generation_prompt, turns, tokenizer.special_tokens
    )
    parts = [(skeleton.literals[0], True)]
    for content, literal in zip(contents, skeleton.literals[1:], strict=True):
        parts += [(content, False), (literal, True)]
    ids, offsets = tokenizer.encode_parts(parts)

    earliest = first_trained + bool(system)
    trained = [
        place
        for place, index in enumerate(skeleton.order)
        if turns[index].role == "assistant" and index >= earliest
    ]
    if loss_on == "last":
        trained = trained[-1:]
    mask = [False] * len(ids)
    ends = frozenset(tokenizer.special_tokens.values())
    for place in trained:
        lengths = [len(text) for text, _ in parts]
        end = sum(lengths[: 2 * place + 2])
        start = end - lengths[2 * place + 1]
        limit = end + lengths[2 * place + 2]
        index = skeleton.order[place]
        roles = tuple(turn.role for turn in turns[:index])
        start -= _lead(source, special, date, roles, kept[:index], skeleton.literals[place])
        _mark_response(mask, ids, offsets, (start, end, limit), ends)
    return Encoded(ids, mask)


def stop_ids(
    tokenizer: Tokenizer, template: str | None, date: str = DEFAULT_DATE
) -> tuple[int, ...]:
    """Ids that end an assistant's turn: the template's own end of turn, and eos."""
    turns = [Message("user", "a"), Message("assistant", "b")]
    encoded = encode_chat(tokenizer, template, "", turns, date)
    marked = [number for number, on in zip(encoded.ids, encoded.loss_mask, strict=True) if on]
    special = frozenset(tokenizer.special_tokens.values())
    found = [number for number in marked[-1:] if number in special]
    if tokenizer.eos_id is not None:
        found.append(tokenizer.eos_id)
    return tuple(dict.fromkeys(found))


def _mark_response(
    mask: list[bool],
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    region: tuple[int, int, int],
    ends: frozenset[int],
) -> None:
    """Marks the tokens that begin in start to end, and those through the end of the turn.

    A token that begins in the header before (a newline merged with a response's leading space)
    is the header's.
    """
    start, end, limit = region
    after = []
    for position, (left, _) in enumerate(offsets):
        if start <= left < end:
            mask[position] = True
        elif end <= left < limit:
            after.append(position)
    for count, position in enumerate(after):
        if ids[position] in ends:
            for covered in after[: count + 1]:
                mask[covered] = True
            return


def _special_variables(tokenizer: Tokenizer) -> tuple[tuple[str, str], ...]:
    texts = {number: text for text, number in tokenizer.special_tokens.items()}
    numbers = {
        "bos_token": tokenizer.bos_id,
        "eos_token": tokenizer.eos_id,
        "pad_token": tokenizer.pad_id,
    }
    return tuple((name, texts[number]) for name, number in numbers.items() if number in texts)


def _fit(
    source: str,
    special: tuple[tuple[str, str], ...],
    date: str,
    prompt: bool,
    turns: Sequence[Message],
    special_tokens: dict[str, int],
) -> tuple[_Skeleton, list[str], tuple[str | None, ...]]:
    """The skeleton, the contents in its places, and those that count as the template's."""
    real = [{"role": turn.role, "content": turn.content} for turn in turns]
    contents = [turn.content for turn in turns]
    roles = tuple(turn.role for turn in turns)
    # A template may look into contents (an empty one, say). Where no special-token text is among
    # them, the user's and the system's contents may count as the template's own text.
    kept = tuple(None if turn.role == "assistant" else turn.content for turn in turns)
    plain = not any(name in content for name in special_tokens for content in kept if content)
    for attempt in [(None,) * len(turns), kept][: 1 + plain]:
        skeleton = _skeleton(source, special, date, prompt, roles, attempt)
        filled = skeleton.fill(contents)
        text = render_template(
            source, real, special=dict(special), date=date, add_generation_prompt=prompt
        )
        if _joined(skeleton, filled) == text:
            return skeleton, filled, attempt
    raise UserError(
        "the chat template changes the text of a message in a way that cannot be followed; name "
        f"one of {', '.join(FALLBACKS)} instead."
    )


def _joined(skeleton: _Skeleton, filled: Sequence[str]) -> str:
    pieces = [skeleton.literals[0]]
    for content, literal in zip(filled, skeleton.literals[1:], strict=True):
        pieces += [content, literal]
    return "".join(pieces)


@functools.lru_cache(maxsize=1024)
def _skeleton(
    source: str,
    special: tuple[tuple[str, str], ...],
    date: str,
    prompt: bool,
    roles: tuple[str, ...],
    kept: tuple[str | None, ...],
) -> _Skeleton:
    """The template's text around the contents; those of `kept` that are not None stay in it."""
    places = [index for index, content in enumerate(kept) if content is None]

    def cut(left: str, right: str) -> tuple[list[str], list[int]]:
        messages = [
            {"role": role, "content": f"{left}\ue0f0{index}\ue0f1{right}"}
            if content is None
            else {"role": role, "content": content}
            for index, (role, content) in enumerate(zip(roles, kept, strict=True))
        ]
        text = render_template(
            source, messages, special=dict(special), date=date, add_generation_prompt=prompt
        )
        pieces = _MARK.split(text)
        return pieces[::2], [int(number) for number in pieces[1::2]]

    try:
        literals, order = cut("", "")
    except UserError:
        if roles[:1] == ("system",) and _accepts(
            source, special, date, prompt, roles[1:], kept[1:]
        ):
            raise UserError(_NO_SYSTEM) from None
        raise
    if "system" in roles and kept[0] is None and 0 not in order:
        raise UserError(_NO_SYSTEM)
    if sorted(order) != places:
        lost = sorted(set(places) - set(order))
        what = f"leaves out message {lost[0]} ({roles[lost[0]]})" if lost else "repeats a message"
        raise UserError(f"the chat template {what}; name one of {', '.join(FALLBACKS)} instead.")
    return _Skeleton(tuple(literals), tuple(order), _strips(literals, cut("\x0b", "\x0c")[0]))


_NO_SYSTEM = (
    "the chat template has no place for a system message, and this prompt has one; use "
    "data.placement=query or none, leave system messages out of the data, or name another "
    "tokenizer.chat_template."
)


def _accepts(
    source: str,
    special: tuple[tuple[str, str], ...],
    date: str,
    prompt: bool,
    roles: tuple[str, ...],
    kept: tuple[str | None, ...],
) -> bool:
    try:
        _skeleton(source, special, date, prompt, roles, kept)
    except UserError:
        return False
    return True


def _strips(literals: Sequence[str], padded: Sequence[str]) -> tuple[tuple[bool, bool], ...]:
    """From the text around plain and around space-padded contents, which spaces were taken."""
    lefts, rights = [], []
    for literal, text in zip(literals, padded, strict=True):
        rights.append(not text.startswith("\x0c") or literal.startswith("\x0c"))
        lefts.append(not text.endswith("\x0b") or literal.endswith("\x0b"))
    return tuple(zip(lefts[:-1], rights[1:], strict=True))


def _lead(
    source: str,
    special: tuple[tuple[str, str], ...],
    date: str,
    roles: tuple[str, ...],
    kept: tuple[str | None, ...],
    literal: str,
) -> int:
    """How many white-space characters before a response come after the generation prompt.

    Llama 2 writes `[/INST] answer` but prompts with `[/INST]`: the space is for the model to say.
    """
    if not roles:
        return 0
    try:
        prompt = _skeleton(source, special, date, True, roles, kept).literals[-1]
    except UserError:
        return 0
    rest = literal[len(prompt) :]
    return len(rest) if literal.startswith(prompt) and not rest.strip() else 0
