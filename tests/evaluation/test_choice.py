"""Answers that are one of a few options: what counts as giving one, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.errors import UserError
from megan_jax.evaluation.choice import normalise, parse_option, score_choice

RELATED = ("Related", "Not Related")
ENTAILED = ("entailment", "not_entailment")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  The  Answer. ", "the answer"),
        ("not_entailment", "not entailment"),
        ("“Yes!”", "yes"),
        ("-3.5", "-3.5"),
        ("3.5.", "3.5"),
        ("1,200", "1,200"),
        ("<=", "<="),
        ("Ｙｅｓ", "yes"),
        ("", ""),
    ],
)
def test_normalise(text, wanted):
    assert normalise(text) == wanted


@given(st.text())
def test_normalise_is_idempotent_on_case_and_space(text):
    assert normalise(f"  {text}\n") == normalise(text)


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        ("Related", RELATED, "Related"),
        ("NOT RELATED.", RELATED, "Not Related"),
        ("not entailment", ENTAILED, "not_entailment"),
        ("The answer is Not Related", RELATED, "Not Related"),
        ("They are not related at all", RELATED, "Not Related"),
        ("It isn't related", ("related", "unrelated"), None),
        ("There is no entailment here", ("entailment", "neutral"), None),
        ("[entailment; neutral; ]", ("entailment", "neutral"), None),
        ("yes\nbecause no other fits", ("yes", "no"), "yes"),
        ("yes\nno", ("yes", "no"), None),
        ("the answer is yes or no", ("yes", "no"), None),
        ("Options: yes, no. So the answer: no", ("yes", "no"), "no"),
        ("I think it is neutral", ("entailment", "neutral"), "neutral"),
        ("Answer: -3.5", ("3.5", "-3.5"), "-3.5"),
        ("C++", ("C", "C++"), "C++"),
        ("may", ("May", "may"), "may"),
        (">", ("<", ">"), ">"),
        ("", ("yes", "no"), None),
        ("perhaps", ("yes", "no"), None),
    ],
)
def test_parse_option(text, options, wanted):
    assert parse_option(text, options) == wanted


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique=True), st.data())
def test_a_text_that_is_an_option_gives_it(options, data):
    option = data.draw(st.sampled_from(options))
    if len({item.strip() for item in options}) == len(options):
        assert parse_option(option, options) == option


def test_modes_differ_where_they_should():
    predictions = ["not_entailment", "Entailment.", "The answer is entailment", "entailment"]
    references = ["entailment"] * 4
    wanted = {
        "exact": [0, 1, 0, 1],
        "option_aware": [0, 1, 1, 1],
        "include": [1, 1, 1, 1],
        "case_include": [1, 0, 1, 1],
        "strict": [0, 0, 0, 1],
        "case_strict": [0, 0, 0, 1],
    }
    for mode, scores in wanted.items():
        assert score_choice(predictions, references, mode=mode, options=[ENTAILED] * 4) == scores


def test_echoing_the_options_scores_nothing_but_in_the_reference():
    text, options = "[entailment; not_entailment; ]", [ENTAILED]
    assert score_choice([text], ["entailment"], mode="option_aware", options=options) == [0]
    assert score_choice([text], ["entailment"], mode="include") == [1]


def test_errors():
    with pytest.raises(UserError, match=r"Unknown choice mode 'strikt'.*Did you mean 'strict'\?"):
        score_choice(["a"], ["a"], mode="strikt")
    with pytest.raises(UserError, match="needs the answer options of every item"):
        score_choice(["a"], ["a"], mode="option_aware")
    with pytest.raises(UserError, match="Item 1: the answer 'c' is not among the options"):
        score_choice(["a", "b"], ["a", "c"], mode="option_aware", options=[["a"], ["a", "b"]])
    with pytest.raises(UserError, match="1 predictions but 2 references"):
        score_choice(["a"], ["a", "b"])
