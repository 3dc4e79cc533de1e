"""Short answers, generated greedily and compared with the right ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from megan_jax.data.chat import stop_ids
from megan_jax.data.evaluation_rows import NONE, condition_donors
from megan_jax.data.example import Example
from megan_jax.data.experiment import chat_template, condition_length, encode
from megan_jax.data.table import ListTable
from megan_jax.data.tokenizers import Tokenizer
from megan_jax.evaluation.choice import score_choice
from megan_jax.evaluation.decoding import decode
from megan_jax.evaluation.results import Accuracy
from megan_jax.models.model import Model, Params
from megan_jax.parallel.axes import round_up_rows

# Conditions under which answers are generated; the base model has none.
KINDS = ("matched", "mismatched", "base")


@dataclasses.dataclass(frozen=True)
class Answers:
    """Generated texts.

    Attributes:
      texts: by kind, a text per example; None where there is no mismatched condition.
      tokens: tokens that were read and written for them.
    """

    texts: dict[str, list[str | None]]
    tokens: int


def has_answer(example: Example) -> bool:
    """Whether the response can be checked word for word: an option, or a task's solution."""
    return bool(example.options) or example.condition_type == "task"


def generate_answers(
    model: Model,
    params: Params,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: ConfigDict,
    kinds: Sequence[str] = KINDS,
) -> Answers:
    """Greedy answers of at most `eval.answer_tokens` tokens under each kind of condition.

    Batches have `eval.batch_size` rows, more where the mesh does not split these evenly.
    """
    prompts = list(encode(examples, tokenizer, config, training=False, prompt_only=True))
    length = condition_length(config)
    index = ListTable(prompts, length).index
    stops = stop_ids(tokenizer, chat_template(config), config.tokenizer.date)
    answers: dict[str, list[str | None]] = {}
    tokens = 0
    for kind in kinds:
        donors = condition_donors(index, "none" if kind == "base" else kind, config.seed)
        texts: list[str | None] = [None] * len(prompts)
        wanted = [i for i in range(len(prompts)) if kind == "base" or donors[i] != NONE]
        # Prompts of similar length share a program and waste little padding.
        wanted.sort(key=lambda i: len(prompts[i].tokens))
        size = round_up_rows(config.eval.batch_size)
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            # The last batch is filled up, so that it has the shape of the others.
            rows = part + [part[-1]] * (size - len(part))
            conditions = [
                None if donors[i] == NONE else prompts[int(donors[i])].conditions[0] for i in rows
            ]
            new = decode(
                model,
                params,
                [prompts[i].tokens for i in rows],
                conditions,
                max_new_tokens=config.eval.answer_tokens,
                stop_tokens=stops,
                condition_length=length,
            )
            for i, ids in zip(part, new, strict=False):
                texts[i] = tokenizer.decode(ids).strip()
                tokens += len(prompts[i].tokens) + len(ids)
        answers[kind] = texts
    return Answers(answers, tokens)


def conversation_answers(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    example: Example,
    conditions: Sequence[str | None],
    config: ConfigDict,
    max_new_tokens: int,
) -> tuple[list[str], int]:
    """Greedy answers to one example's prompt under several conditions; None is no condition.

    Returns:
      The texts, and the number of tokens that were read and written for them.
    """
    length = condition_length(config)
    prompts, encoded = [], []
    for condition in conditions:
        asked = dataclasses.replace(example, condition=condition, paraphrases=())
        row = next(encode([asked], tokenizer, config, training=False, prompt_only=True))
        prompts.append(row.tokens)
        encoded.append(row.conditions[0] if row.conditions else None)
    new = decode(
        model,
        params,
        prompts,
        encoded,
        max_new_tokens=max_new_tokens,
        stop_tokens=stop_ids(tokenizer, chat_template(config), config.tokenizer.date),
        condition_length=length,
    )
    tokens = sum(map(len, prompts)) + sum(map(len, new))
    return [tokenizer.decode(ids).strip() for ids in new], tokens


def accuracy(
    examples: Sequence[Example], answers: dict[str, list[str | None]], mode: str
) -> Accuracy | None:
    """Shares of right answers over the examples that have one under every kind; None without any.

    `option_aware` compares an example without options exactly: there is nothing to look for.
    """
    usable = [
        i for i in range(len(examples)) if all(texts[i] is not None for texts in answers.values())
    ]
    if not usable:
        return None

    def right(text: str, example: Example) -> int:
        own = "exact" if mode == "option_aware" and not example.options else mode
        truth = example.messages[-1].content
        return score_choice([text], [truth], mode=own, options=[example.options])[0]

    def share(kind: str) -> float | None:
        if kind not in answers:
            return None
        return float(np.mean([right(answers[kind][i] or "", examples[i]) for i in usable]))

    matched = share("matched")
    assert matched is not None
    return Accuracy(matched, share("mismatched"), share("base"), len(usable))
