"""System text, user text and condition text equal the recorded ones of the reference."""

from __future__ import annotations

import json

from megan_jax.data.example import Example, Message
from megan_jax.data.prompts import render

PLACEMENT = {"None": "none", "inSystem": "system", "inQuery": "query"}
EXPRESSION = {"None": "raw", "withInstruction": "with_instruction"}


def example_of(row: dict) -> Example:
    condition, history = row["condition"], row["history"]
    return Example(
        condition_type=row["kind"],
        condition=tuple(condition) if isinstance(condition, list) else condition,
        messages=(Message("user", row["query"]), Message("assistant", row["response"])),
        instruction=row["instruction"] or "",
        context=history if isinstance(history, str) else "",
        history=tuple(map(tuple, history)) if isinstance(history, list) else (),
    )


def test_prompts_equal_the_recorded_ones(part):
    records = json.loads(part("prompts.json").read_text(encoding="utf-8"))
    assert records
    for record in records:
        example = example_of(record["row"])
        placement = PLACEMENT[record["placement"]]
        rendered = render(example, placement, EXPRESSION[record["expression"]], "reference_train")
        answer = Message("assistant", record["row"]["response"])
        reference = record["reference"]
        if "error" in reference:  # defined here: what the reference would say, where it may stand
            assert rendered.turns[-1] == answer
            shown = render(example, "system", "raw", "reference_train").system
            assert shown
            assert rendered.turns[0].content == f"{record['row']['query']}\n\n{shown}"
            continue
        assert rendered.system == reference["system"], record
        assert rendered.turns == (Message("user", reference["user"]), answer), record
        assert rendered.condition_text == reference["condition_text"], record
