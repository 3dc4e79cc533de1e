"""Encoded examples: tokens, masks and conditions; each error names the row."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megan_jax.data.encode import encode_condition, encode_example
from megan_jax.data.example import CONDITION_TYPES, Example, Message
from megan_jax.data.tokenizers import byte_tokenizer
from megan_jax.errors import UserError

TOKENIZER = byte_tokenizer()
EXAMPLE = Example(
    "task",
    "Say the capital.",
    (Message("user", "France?"), Message("assistant", "Paris")),
    instruction="Answer:\n[Paris; Rome; ]",
    paraphrases=("Name the capital.", "Capital, please."),
    condition_key="capitals",
    options=("Paris", "Rome"),
    task="geo",
    source="f.jsonl:7",
)


def text(ids) -> str:
    return TOKENIZER.decode(list(ids), skip_special=False)


def test_an_example_encoded():
    encoded = encode_example(EXAMPLE, TOKENIZER)
    assert text(encoded.tokens) == (
        "<|im_start|>user\nFrance?<|im_end|>\n<|im_start|>assistant\nParis<|im_end|>\n"
    )
    assert text(encoded.tokens[encoded.loss_mask]) == "Paris<|im_end|>"
    assert encoded.tokens.dtype == np.int32 and encoded.loss_mask.dtype == bool
    assert [text(wording) for wording in encoded.conditions] == [
        "Say the capital.",
        "Name the capital.",
        "Capital, please.",
    ]
    assert all(wording.dtype == np.int32 for wording in encoded.conditions)
    for field in ("condition_type", "condition_key", "options", "task", "source"):
        assert getattr(encoded, field) == getattr(EXAMPLE, field)
    assert encoded.truncated == 0


def test_a_prompt_ends_where_the_assistant_speaks():
    prompt = encode_example(EXAMPLE, TOKENIZER, prompt_only=True)
    whole = encode_example(EXAMPLE, TOKENIZER)
    assert text(prompt.tokens).endswith("France?<|im_end|>\n<|im_start|>assistant\n")
    first = int(np.argmax(whole.loss_mask))
    np.testing.assert_array_equal(prompt.tokens, whole.tokens[:first])
    question = dataclasses.replace(EXAMPLE, messages=EXAMPLE.messages[:1])
    np.testing.assert_array_equal(
        encode_example(question, TOKENIZER, prompt_only=True).tokens, prompt.tokens
    )


def test_placement_and_expression_reach_the_tokens():
    encoded = encode_example(EXAMPLE, TOKENIZER, placement="system")
    assert text(encoded.tokens).startswith("<|im_start|>system\nSay the capital.\n\nAnswer:")
    mood = Example("sentiment", "negative", EXAMPLE.messages)
    encoded = encode_example(mood, TOKENIZER, expression="with_instruction")
    assert text(encoded.conditions[0]) == "Reply with sentiment: negative"


def test_conditions_are_cut_and_counted():
    encoded = encode_example(EXAMPLE, TOKENIZER, condition_length=16)
    assert [len(wording) for wording in encoded.conditions] == [16, 16, 16]
    assert encoded.truncated == 1  # the others have 16 bytes
    assert text(encoded.conditions[1]) == "Name the capital"


def test_another_condition_or_none():
    other = encode_example(EXAMPLE, TOKENIZER, condition="Add.")
    assert [text(wording) for wording in other.conditions] == ["Add."]
    assert encode_example(EXAMPLE, TOKENIZER, condition=None).conditions == ()
    bare = dataclasses.replace(EXAMPLE, condition=None)
    assert encode_example(bare, TOKENIZER).conditions == ()


def test_history_carries_no_loss():
    example = dataclasses.replace(EXAMPLE, history=(("Italy?", "Rome"),))
    encoded = encode_example(example, TOKENIZER, loss_on="all")
    assert "Italy?<|im_end|>" in text(encoded.tokens)
    assert text(encoded.tokens[encoded.loss_mask]) == "Paris<|im_end|>"


def test_special_text_in_a_condition_is_plain_text():
    tokens, cut = encode_condition("be <|im_end|>", TOKENIZER)
    assert tokens.max() < 256 and not cut


@given(
    st.sampled_from(CONDITION_TYPES),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["none", "system", "query"]),
)
@settings(max_examples=60, deadline=None)
def test_the_mask_is_the_answer_whatever_the_texts(kind, condition, answer, placement):
    example = Example(kind, condition, (Message("user", condition), Message("assistant", answer)))
    encoded = encode_example(example, TOKENIZER, placement=placement, condition_length=10_000)
    assert TOKENIZER.decode(encoded.tokens[encoded.loss_mask]) == answer
    assert TOKENIZER.decode(encoded.conditions[0]) == condition


class Mute:
    """A tokenizer that knows no text at all."""

    def encode(self, text: str) -> list[int]:
        return []


@pytest.mark.parametrize("condition, tokenizer", [("  ", TOKENIZER), ("x", Mute())])
def test_a_condition_of_no_tokens(condition, tokenizer):
    with pytest.raises(UserError, match=rf"^f:1: the condition '{condition}' gives no tokens"):
        encode_condition(condition, tokenizer, source="f:1")


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({}, {"condition": " "}, "the condition is empty"),
        ({"paraphrases": ("\n",)}, {}, "the condition is empty"),
        ({}, {"template": "{{ messages[0].content }}"}, "the chat template leaves out message 1"),
        ({}, {"template": "{% for m in messages if m.role != 'system' %}{{ m.content }}"
                          "{% endfor %}", "placement": "system"}, "no place for a system message"),
    ],
)  # fmt: skip
def test_errors_name_the_row(changes, options, message):
    example = dataclasses.replace(EXAMPLE, **changes)
    with pytest.raises(UserError, match=f"^f.jsonl:7: .*{message}"):
        encode_example(example, TOKENIZER, **options)


def test_the_condition_length_is_positive():
    with pytest.raises(UserError, match="the condition length is 0; it is at least 1"):
        encode_example(EXAMPLE, TOKENIZER, condition_length=0)
