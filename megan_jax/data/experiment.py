"""The data of an experiment: from the sources that a configuration names to rows of tokens."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from megan_jax.data import cache
from megan_jax.data.encode import EncodedExample, encode_example
from megan_jax.data.evaluation_rows import EvaluationSource
from megan_jax.data.example import Example, Message
from megan_jax.data.files import read_text
from megan_jax.data.jsonl import load_jsonl
from megan_jax.data.sampling import BatchSource
from megan_jax.data.suite import SPLITS, load_suite
from megan_jax.data.suite.fetch import cache_dir
from megan_jax.data.table import ListTable
from megan_jax.data.tokenizers import Tokenizer
from megan_jax.errors import UserError, nearest

SUITE = "suite"
# Long enough for any condition where the reference's evaluation does not cut it.
UNTRUNCATED = 512


def chat_template(config: ConfigDict) -> str | None:
    """The template that a configuration asks for: None is the tokenizer's own."""
    name = config.tokenizer.chat_template
    if name == "auto":
        return None
    if Path(name).suffix in (".jinja", ".jinja2", ".j2", ".txt"):
        return read_text(Path(name))
    return name


def read_examples(
    sources: Sequence[str], config: ConfigDict, *, limit_per_type: int = 0
) -> list[Example]:
    """Reads all examples of some sources, in order.

    Args:
      sources: `suite` (its training split), `suite:SPLIT`, or paths of messages JSONL files.
      config: `data.types`, `data.condition_type` and `data.on_error` are used.
      limit_per_type: the most examples per condition type; 0: all.

    Raises:
      UserError: a source that is not there, a bad row, or nothing left.
    """
    examples: list[Example] = []
    types = tuple(config.data.types)
    for source in sources:
        name, _, split = source.partition(":")
        chosen: tuple[str, ...] = ()
        if name == SUITE:
            split = split or "train"
            if split not in SPLITS:
                raise UserError(
                    f"data source {source!r}: the suite has the splits {', '.join(SPLITS)}."
                    f"{nearest(split, SPLITS)}"
                )
            if not split.startswith("unseen"):
                chosen = tuple(config.data.conditions)
            limit = None if chosen else limit_per_type or None
            found = load_suite(split, types or None, limit_per_type=limit)
        else:
            found = load_jsonl(
                source, config.data.condition_type or None, on_error=config.data.on_error
            ).examples
            found = [e for e in found if not types or e.condition_type in types]
        examples += _first(_with_keys(found, chosen), limit_per_type)
    if not examples:
        raise UserError(
            f"{', '.join(sources)}: no example of the condition types "
            f"{', '.join(types) or 'that are known'}. Set config.data.types."
        )
    if config.data.system_prompt:
        examples = [_with_system(e, config.data.system_prompt) for e in examples]
    return examples


def _with_keys(examples: Sequence[Example], keys: Sequence[str]) -> list[Example]:
    """The examples with these condition keys; types of which no key is listed stay whole."""
    narrowed = {e.condition_type for e in examples if e.key in keys}
    return [e for e in examples if e.key in keys or e.condition_type not in narrowed]


def _first(examples: Sequence[Example], limit_per_type: int) -> list[Example]:
    """The first `limit_per_type` examples of each condition type; 0: all."""
    if not limit_per_type:
        return list(examples)
    counts: collections.Counter[str] = collections.Counter()
    kept = []
    for example in examples:
        counts[example.condition_type] += 1
        if counts[example.condition_type] <= limit_per_type:
            kept.append(example)
    return kept


def _with_system(example: Example, text: str) -> Example:
    if example.messages[0].role == "system":
        return example
    return dataclasses.replace(example, messages=(Message("system", text), *example.messages))


def encode(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: ConfigDict,
    *,
    training: bool,
    prompt_only: bool = False,
) -> Iterator[EncodedExample]:
    """Encodes examples as an experiment asks; see `encode.encode_example`.

    Under `compat.attend_condition_padding`, training conditions are filled up with the padding
    token, which then is a condition token like any other. Under
    `compat.eval_condition_untruncated`, evaluation conditions are whole.
    """
    compat, length = config.compat, config.hypernet.condition_length
    fill = None
    if compat.attend_condition_padding and (training or not compat.eval_condition_untruncated):
        fill = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id
    if compat.eval_condition_untruncated and not training:
        length = UNTRUNCATED
    for example in examples:
        encoded = encode_example(
            example,
            tokenizer,
            chat_template(config),
            placement=config.data.placement,
            expression=config.data.expression,
            wording=compat.wording,
            condition_length=length,
            date=config.tokenizer.date,
            loss_on=config.data.loss_on,
            prompt_only=prompt_only,
        )
        if fill is not None:
            filled = tuple(
                np.concatenate([c, np.full(length - len(c), fill, np.int32)])
                for c in encoded.conditions
            )
            encoded = dataclasses.replace(encoded, conditions=filled)
        yield encoded


def condition_length(config: ConfigDict) -> int:
    """The most condition tokens of an evaluation example."""
    return (
        UNTRUNCATED
        if config.compat.eval_condition_untruncated
        else (config.hypernet.condition_length)
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def examples_fingerprint(examples: Sequence[Example]) -> str:
    """Identifies a list of examples by their whole content and order."""
    return _digest([dataclasses.asdict(example) for example in examples])


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Identifies a tokenizer by what it does: its special tokens, template and a probe of ids."""
    probe = "The quick brown fox: 1,234.5 élan 你好\n\tjumps over; don't <|im_end|> stop."
    pieces = [tokenizer.decode([i], False) for i in range(0, tokenizer.vocab_size, 97)]
    return _digest(
        [
            tokenizer.vocab_size,
            tokenizer.special_tokens,
            tokenizer.bos_id,
            tokenizer.eos_id,
            tokenizer.pad_id,
            tokenizer.chat_template,
            tokenizer.encode(probe),
            pieces,
        ]
    )


def training_source(config: ConfigDict, tokenizer: Tokenizer) -> tuple[BatchSource, dict[str, str]]:
    """The batches of training, and the fingerprint of the data for the run's record.

    Raises:
      UserError: see `read_examples`; rows or conditions that do not fit.
    """
    data = config.data
    examples = read_examples(data.train, config, limit_per_type=data.limit_per_type)
    parts = {
        "examples": examples_fingerprint(examples),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": chat_template(config) or "",
        "date": config.tokenizer.date,
        "placement": data.placement,
        "expression": data.expression,
        "wording": config.compat.wording,
        "loss_on": data.loss_on,
        "attend_condition_padding": config.compat.attend_condition_padding,
    }
    directory = Path(data.cache_dir) if data.cache_dir else cache_dir() / "tokenised"
    length = config.hypernet.condition_length
    table = cache.open_or_build(
        directory, parts, length, lambda: encode(examples, tokenizer, config, training=True)
    )
    mixing = dict(zip(data.types, data.type_weights, strict=True)) if data.type_weights else None
    source = BatchSource(
        table,
        seed=config.seed,
        batch_size=config.train.batch_size,
        row_length=data.row_length,
        condition_capacity=data.condition_capacity,
        pack=data.packing,
        on_long=data.on_long,
        mixing=mixing,
        condition_dropout=data.condition_dropout,
    )
    described = {"source": ", ".join(data.train), "fingerprint": cache.fingerprint(parts)}
    return source, described


def evaluation_source(
    examples: Sequence[Example], tokenizer: Tokenizer, config: ConfigDict, batch_size: int
) -> EvaluationSource:
    """The batches of an evaluation; example numbers are positions in `examples`."""
    length = condition_length(config)
    table = ListTable(encode(examples, tokenizer, config, training=False), length)
    return EvaluationSource(
        table,
        batch_size=batch_size,
        row_length=config.data.row_length,
        condition_capacity=max(length, config.data.condition_capacity),
        seed=config.seed,
        pack=config.data.packing,
        on_long="drop" if config.data.on_long == "drop" else "truncate",
    )
