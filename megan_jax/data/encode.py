"""From an example to token ids: the conversation, its loss mask, and the condition's wordings."""

from __future__ import annotations

import dataclasses

import numpy as np

from megan_jax.data.chat import encode_chat
from megan_jax.data.example import Example
from megan_jax.data.prompts import OWN, Condition, Own, render
from megan_jax.data.templates import DEFAULT_DATE
from megan_jax.data.tokenizers import Tokenizer
from megan_jax.errors import UserError

DEFAULT_CONDITION_LENGTH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedExample:
    """An example as arrays.

    Attributes:
      tokens: `int32[n]`, the conversation.
      loss_mask: `bool[n]`, true where a token is for the assistant to produce.
      conditions: for each wording (the condition first, then its paraphrases) `int32[<=C]`;
        empty without a condition.
      condition_type, condition_key, options, task, source: as in the example.
      truncated: how many of the wordings were cut to the condition length.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    conditions: tuple[np.ndarray, ...]
    condition_type: str
    condition_key: str
    options: tuple[str, ...] = ()
    task: str = ""
    source: str = ""
    truncated: int = 0


def encode_example(
    example: Example,
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    placement: str = "none",
    expression: str = "raw",
    wording: str = "default",
    condition_length: int = DEFAULT_CONDITION_LENGTH,
    date: str = DEFAULT_DATE,
    loss_on: str = "last",
    prompt_only: bool = False,
    condition: Condition | Own = OWN,
) -> EncodedExample:
    """Encodes an example.

    Args:
      example: the row.
      tokenizer: turns text into ids.
      template: the name of a fallback chat template, Jinja2 source, or None for the tokenizer's.
      placement, expression, wording: see `prompts.render`.
      condition_length: C, the most tokens that the hypernetwork reads of a condition.
      date: the day that a chat template is told, ISO.
      loss_on: `last` or `all` assistant turns (never the history).
      prompt_only: leave the last answer out and end where the assistant begins to speak.
      condition: stands in for the example's own condition and its paraphrases; None for none.

    Raises:
      UserError: naming the row, if the prompt cannot be made or a condition has no tokens.
    """
    rendered = render(example, placement, expression, wording, condition)
    turns = rendered.turns
    if prompt_only and turns[-1].role == "assistant":
        turns = turns[:-1]
    try:
        encoded = encode_chat(
            tokenizer,
            template,
            rendered.system,
            turns,
            date,
            prompt_only,
            loss_on,
            rendered.history_turns,
        )
    except UserError as error:
        raise UserError(f"{example.source}: {error}" if example.source else str(error)) from None
    texts = [] if rendered.condition_text is None else [rendered.condition_text]
    if texts and isinstance(condition, Own):
        texts += [
            render(example, placement, expression, wording, text).condition_text or ""
            for text in example.paraphrases
        ]
    pairs = [encode_condition(text, tokenizer, condition_length, example.source) for text in texts]
    return EncodedExample(
        tokens=np.asarray(encoded.ids, np.int32),
        loss_mask=np.asarray(encoded.loss_mask, bool),
        conditions=tuple(tokens for tokens, _ in pairs),
        condition_type=example.condition_type,
        condition_key=example.key,
        options=example.options,
        task=example.task,
        source=example.source,
        truncated=sum(cut for _, cut in pairs),
    )


def encode_condition(
    text: str,
    tokenizer: Tokenizer,
    length: int = DEFAULT_CONDITION_LENGTH,
    source: str = "",
) -> tuple[np.ndarray, bool]:
    """A condition as plain text without special tokens: `int32[<=C]`, and whether it was cut.

    Args:
      text: what the hypernetwork reads.
      tokenizer: turns text into ids.
      length: C, the most tokens kept, from the first.
      source: the row, for messages.

    Raises:
      UserError: the text gives no token, or `length` is not positive.
    """
    if length < 1:
        raise UserError(f"the condition length is {length}; it is at least 1.")
    ids = tokenizer.encode(text)
    if not ids or not text.strip():
        where = f"{source}: " if source else ""
        raise UserError(
            f"{where}the condition {text!r} gives no tokens; write it out, or leave it out for no "
            "condition."
        )
    return np.asarray(ids[:length], np.int32), len(ids) > length
