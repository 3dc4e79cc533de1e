"""Examples refuse what cannot be trained on, naming the row."""

import dataclasses

import pytest

from megan_jax.data.example import Example, Message, check_condition_type
from megan_jax.errors import UserError

TURNS = (Message("user", "q"), Message("assistant", "a"))


def make(**changes) -> Example:
    fields = {"condition_type": "style", "condition": "formal", "messages": TURNS}
    return Example(**{**fields, "source": "f.jsonl:3", **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"condition_type": "styl"}, "unknown condition type 'styl'.*Did you mean 'style'"),
        ({"condition_type": ""}, "unknown condition type ''"),
        ({"condition": ""}, "the condition is empty; leave it out"),
        ({"condition": " \n"}, "the condition is empty"),
        ({"condition": ()}, "the condition is empty"),
        ({"condition": ("", " ")}, "the condition is empty"),
        ({"condition": ["a"]}, "the condition is a list"),
        ({"condition": ("a", 1)}, "a line of the condition is not text"),
        ({"messages": ()}, "there are no messages"),
        ({"messages": (Message("usr", "q"),)}, r"messages\[0\].role is 'usr'.*Did you mean 'user'"),
        ({"messages": (Message("user", None),)}, r"messages\[0\].content is not text"),
        ({"messages": (*TURNS, Message("system", "s"))}, r"messages\[2\] is a system message"),
    ],
)
def test_bad_examples_are_refused_with_their_place(changes, message):
    with pytest.raises(UserError, match=f"^f.jsonl:3: {message}"):
        make(**changes)


def test_the_message_stands_alone_without_a_source():
    with pytest.raises(UserError, match=r"^there are no messages"):
        make(messages=(), source="")


def test_no_condition_is_none():
    assert make(condition=None).condition_text is None
    assert make(condition=None).key == ""


def test_profile_lines_are_joined():
    assert make(condition_type="persona", condition=("a", "b")).condition_text == "a\nb"


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"condition_key": "k", "task": "t"}, "k"),
        ({"condition_type": "task", "task": "t"}, "t"),
        ({"task": "t"}, "formal"),
        ({"condition_type": "task"}, "formal"),
    ],
)
def test_the_key_of_a_condition(changes, key):
    assert make(**changes).key == key


def test_answers():
    assert make().answer == "a"
    assert make().with_answer("b").messages == (TURNS[0], Message("assistant", "b"))
    question = make(messages=TURNS[:1])
    assert question.answer is None
    assert question.with_answer("b").messages == (TURNS[0], Message("assistant", "b"))


def test_examples_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().condition = "x"


def test_condition_types_are_checked():
    assert check_condition_type("task") == "task"
    with pytest.raises(UserError, match=r"Did you mean 'persona'"):
        check_condition_type("persna")
