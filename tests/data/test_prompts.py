"""Placement, expression and wording of prompts; the recorded reference is in tests/parity."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.example import CONDITION_TYPES, Example, Message
from megan_jax.data.prompts import EXPRESSIONS, PLACEMENTS, WORDINGS, render
from megan_jax.errors import UserError

QUESTION, ANSWER = Message("user", "Where to?"), Message("assistant", "Home.")


def make(condition_type="style", condition="formal", **changes) -> Example:
    return Example(condition_type, condition, (QUESTION, ANSWER), **changes)


def whole(rendered) -> str:
    return "\n".join([rendered.system, *(turn.content for turn in rendered.turns)])


@pytest.mark.parametrize("condition_type", CONDITION_TYPES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("wording", WORDINGS)
def test_without_placement_the_prompt_knows_nothing(condition_type, expression, wording):
    example = make(condition_type, "XYZZY", instruction="PLUGH")
    rendered = render(example, "none", expression, wording)
    assert rendered.system == "" and rendered.turns == (QUESTION, ANSWER)
    assert "XYZZY" in rendered.condition_text


def test_defaults_are_none_and_raw():
    rendered = render(make(instruction="i"))
    assert (rendered.system, rendered.turns) == ("", (QUESTION, ANSWER))
    assert rendered.condition_text == "formal"


@pytest.mark.parametrize(
    "condition_type, shown, read",
    [
        ("task", "XYZZY\n\nAnswer briefly.", "XYZZY"),
        ("domain", "Answer briefly.\n\nDomain: XYZZY", "Answer briefly.\n\nDomain: XYZZY"),
        ("persona", "Answer briefly.\n\nProfiles:\nXYZZY", "Answer briefly.\n\nProfiles:\nXYZZY"),
        (
            "style",
            "Please answer the question with the style of XYZZY.\n\nAnswer briefly.",
            "Please answer the question with the style of XYZZY.",
        ),
        (
            "sentiment",
            "Reply with sentiment: XYZZY\n\nAnswer briefly.",
            "Reply with sentiment: XYZZY",
        ),
    ],
)
def test_default_words_go_by_the_type(condition_type, shown, read):
    example = make(condition_type, "XYZZY", instruction="Answer briefly.")
    assert render(example, "system").system == shown
    assert render(example, "system").condition_text == "XYZZY"
    assert render(example, "none", "with_instruction").condition_text == read


@pytest.mark.parametrize("instruction", ["the profile of a summary", "a concise summary", ""])
@pytest.mark.parametrize("condition_type", CONDITION_TYPES)
def test_default_words_do_not_guess(condition_type, instruction):
    """Q20: words in the instruction or a sentiment word as condition change nothing."""
    plain = render(make(condition_type, "quux", instruction="I"), "system", "with_instruction")
    odd = render(
        make(condition_type, "positive", instruction=instruction or "I"),
        "system",
        "with_instruction",
    )
    assert odd.system.replace("positive", "quux").replace(instruction or "I", "I") == plain.system
    reference = render(
        make("task", "positive", instruction="I"), "system", "raw", "reference_train"
    )
    assert reference.system == "Reply with sentiment: positive"


def test_reference_routing_by_substring():
    task = make("task", "d", instruction="Which profile?")
    assert render(task, "system", "raw", "reference_train").system == (
        "Which profile?\n\nProfiles: \nd\n"
    )
    assert render(task, "query", "raw", "reference_train").turns[0].content == (
        "Which profile?\n\nProfiles: \nd\n\n\nQuestion:\nWhere to?"
    )


def test_reference_evaluation_differs_from_training():
    """Q22: style is a sentence in training and a bare word in evaluation; order of the tests."""
    style = make("style", "formal")
    assert render(style, "system", "with_instruction", "reference_eval").system == ""
    read = render(style, "none", "with_instruction", "reference_eval").condition_text
    assert read == "formal"
    mood = make("sentiment", "positive", instruction="profile")
    assert render(mood, "system", "raw", "reference_eval").system.startswith("Reply with")
    assert render(mood, "system", "raw", "reference_train").system.startswith("profile\n\nProfiles")
    domain = make("domain", "debate", instruction="a concise summary", context="CTX")
    assert "CTX" not in whole(render(domain, "none", "raw", "reference_eval"))
    assert "CTX" in whole(render(domain, "none", "raw", "reference_train"))


def test_history_becomes_turns_that_are_not_trained():
    example = make("persona", ("i sail .", "i bake ."), history=(("u1", "a1"), ("u2", "a2")))
    rendered = render(example)
    assert [turn.content for turn in rendered.turns] == [
        "u1",
        "a1",
        "u2",
        "a2",
        "Where to?",
        "Home.",
    ]
    assert [turn.role for turn in rendered.turns] == ["user", "assistant"] * 3
    assert rendered.history_turns == 4
    assert rendered.condition_text == "i sail .\ni bake ."
    asked = render(example, "query").turns[4].content
    assert asked == "Profiles:\ni sail .\ni bake .\n\nQuestion:\nWhere to?"


def test_context_stands_before_the_question():
    asked = render(make(context="It rains.")).turns[0].content
    assert asked == "Consider context:\nIt rains.\n\nQuestion:\nWhere to?"
    asked = render(make("persona", "p", context="It rains."), "query").turns[0].content
    assert asked == "Profiles:\np\n\nConsider context:\nIt rains.\n\nQuestion:\nWhere to?"


def test_a_system_message_of_the_row_is_kept():
    example = dataclasses.replace(
        make(), messages=(Message("system", "Be kind."), QUESTION, ANSWER)
    )
    assert render(example).system == "Be kind."
    assert render(example, "system").system == (
        "Be kind.\n\nPlease answer the question with the style of formal."
    )


def test_another_condition_takes_the_place_of_the_own():
    example = make("task", "own", instruction="I")
    other = render(example, "query", condition="other")
    assert other.condition_text == "other" and "own" not in whole(other)
    nothing = render(example, "query", condition=None)
    assert nothing.condition_text is None
    assert nothing.turns[0].content == "Where to?\n\nI"
    with pytest.raises(UserError, match=r"^f:1: the condition is empty"):
        render(dataclasses.replace(example, source="f:1"), condition="")


@pytest.mark.parametrize("settings", [*itertools.product(PLACEMENTS, EXPRESSIONS, WORDINGS)])
def test_no_condition_never_fails(settings):
    for condition_type in CONDITION_TYPES:
        rendered = render(make(condition_type, None), *settings)
        assert rendered.condition_text is None
        assert rendered.system == "" and rendered.turns == (QUESTION, ANSWER)


@pytest.mark.parametrize(
    "settings, message",
    [
        (("inSystem", "raw", "default"), "placement is 'inSystem'.*Did you mean 'system'"),
        (("none", "rw", "default"), "expression is 'rw'; .*raw, with_instruction"),
        (("none", "raw", "reference"), "wording is 'reference'.*reference_train"),
    ],
)
def test_unknown_settings(settings, message):
    with pytest.raises(UserError, match=message):
        render(make(), *settings)


def test_a_conversation_needs_a_turn():
    example = dataclasses.replace(make(source="f:2"), messages=(Message("system", "s"),))
    with pytest.raises(UserError, match=r"^f:2: there is no user or assistant message"):
        render(example)


@given(
    st.sampled_from(CONDITION_TYPES),
    st.text(min_size=1).filter(str.strip),
    st.text(),
    st.sampled_from(["system", "query"]),
)
def test_a_placed_condition_is_in_the_prompt_once(condition_type, condition, question, placement):
    example = dataclasses.replace(
        make(condition_type, condition), messages=(Message("user", question), ANSWER)
    )
    text = render(example, placement)
    shown = text.system if placement == "system" else text.turns[0].content
    assert condition in shown
    assert question in text.turns[0].content
