"""One row: where its condition stands, and every way in which it can be wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.example import Example, Message
from megan_jax.data.rows import parse_options, parse_row

USER, REPLY = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
TASK = {
    "messages": [
        {
            **USER,
            "instruction": "which of the following answers is the most appropriate:\n[a; b; ]",
        },
        REPLY,
    ],
    "task": "scitail",
    "context": "",
    "task_description": "Decide.",
}


def style(**changes):
    return {"messages": [USER, {**REPLY, "style": "formal"}], **changes}


def reasons(row, **options) -> str:
    outcome = parse_row(row, 5, **options)
    assert not isinstance(outcome, Example), "the row was taken for a good one"
    assert all(problem.line == 5 for problem in outcome)
    return " | ".join(map(str, outcome))


@pytest.mark.parametrize(
    "row, kind, condition",
    [
        ({"messages": [USER, REPLY], "domain": "debate"}, "domain", "debate"),
        ({"messages": [USER, REPLY], "user_profiles": ["i sail .", "i bake ."]}, "persona",
         ("i sail .", "i bake .")),
        (style(), "style", "formal"),
        ({"messages": [USER, {**REPLY, "sentiment": "negative"}]}, "sentiment", "negative"),
        (style(style_domain="x", id=3), "style", "formal"),
        ({"messages": [USER, REPLY], "condition_type": "style", "condition": "x"}, "style", "x"),
        ({"messages": [USER, REPLY], "condition_type": "task", "condition": None}, "task", None),
        ({"messages": [USER, REPLY], "task_description": None}, "task", None),
        ({**TASK, "condition_type": "task"}, "task", "Decide."),
        ({**TASK, "domain": "physics", "condition_type": "domain"}, "domain", "physics"),
        ({**TASK, "domain": None}, "task", "Decide."),
    ],
)  # fmt: skip
def test_the_type_comes_from_the_field_or_is_given(row, kind, condition):
    example = parse_row(row, 1)
    assert (example.condition_type, example.condition) == (kind, condition)


def test_an_ambiguous_row_takes_the_type_asked_for():
    row = {**TASK, "domain": "physics"}
    assert "task_description and domain; say which with condition_type" in reasons(row)
    assert parse_row(row, 1, condition_type="domain").condition == "physics"
    assert parse_row(row, 1, condition_type="task").condition == "Decide."


def test_history_context_and_our_own_fields():
    row = {
        "messages": [{"role": "system", "content": "s"}, USER, REPLY],
        "user_profiles": ["p"],
        "history": [["u", "a"], ["v", "b"]],
        "context": "c",
        "instruction": "i",
        "options": ["a", "b"],
        "condition_key": "k",
        "paraphrases": ["p2", "p2"],
    }
    example = parse_row(row, 1)
    assert example.history == (("u", "a"), ("v", "b"))
    assert (example.context, example.instruction) == ("c", "i")
    assert (example.options, example.condition_key) == (("a", "b"), "k")
    assert example.paraphrases == ("p2",)
    assert example.messages[0] == Message("system", "s")


@pytest.mark.parametrize(
    "instruction, options",
    [
        ("pick:\n[entailment; neutral; ]", ("entailment", "neutral")),
        ("pick:\n[Not Related; Related; ] ", ("Not Related", "Related")),
        ("pick:\n[f(x)[0]; [1]; ]", ("f(x)[0]", "[1]")),
        ("Choose [yes; no]", ("yes", "no")),
        ("[yes; no; ]", ("yes", "no")),
        ("Write a summary.", ()),
        ("See [1].", ()),
        ("See [a]", ()),
        ("", ()),
    ],
)
def test_options_are_read_from_the_instruction(instruction, options):
    assert parse_options(instruction) == options


WRONG = [
    ([], "is a list, not an object with a field messages"),
    (3, "is a number, not an object"),
    ({"task_description": "d"}, "messages: is missing"),
    ({"message": [USER, REPLY], "domain": "d"}, "message: unknown field. Did you mean 'messages'"),
    ({"messages": [], "domain": "d"}, "messages: is empty; a list of messages is needed"),
    ({"messages": {}, "domain": "d"}, "messages: is an object; a list of messages is needed"),
    ({"messages": ["q"], "domain": "d"}, r"messages[0]: is text, not an object"),
    (style(foo=1), "foo: unknown field. Remove it, or keep notes under the row's 'metadata'"),
    ({**TASK, "task_descripton": "x"}, "task_descripton: unknown field. Did you mean"),
    ({"messages": [USER, REPLY]}, "condition: no field holds a condition"),
    (
        {"messages": [USER, REPLY], "condition": "c"},
        "condition_type: is missing; it is one of task",
    ),
    (style(condition_type="styl"), "condition_type: unknown condition type 'styl'"),
    (style(condition_type="styl"), "Did you mean 'style'"),
    (style(condition_type="task"), "task_description: is missing; a row of type 'task' needs it"),
    (style(condition_type=3), "condition_type: is a number, not text"),
    ({**TASK, "task_description": ""}, "task_description: is empty; a condition needs text"),
    ({**TASK, "task_description": " \n"}, "task_description: is empty"),
    ({**TASK, "task_description": 3}, "task_description: is a number, not text"),
    ({"messages": [USER, REPLY], "user_profiles": []}, "user_profiles: is empty"),
    ({"messages": [USER, REPLY], "user_profiles": [1]}, "user_profiles[0]: is a number, not text"),
    ({"messages": [USER, {**REPLY, "style": {}}]}, "messages[1].style: is an object, not text"),
    (
        {"messages": [USER, {**REPLY, "style": "a"}, USER, {**REPLY, "style": "b"}]},
        "messages[3].style: differs from messages[1].style; a row has one condition",
    ),
    (style(context={"a": 1}), "context: is an object, not text"),
    (style(history="x"), "history: is text, not a list of [user, assistant] pairs"),
    (style(history=[["a"]]), "history[0]: is not a pair [user, assistant]"),
    (style(history=[["a", 1]]), "history[0][1]: is a number, not text"),
    (style(options="a"), "options: is text, not a list of texts"),
    (style(options=[True]), "options[0]: is true or false, not text"),
    (style(task=[]), "task: is a list, not text"),
    ({"messages": [{"content": "q"}, REPLY], "domain": "d"}, "messages[0].role: is missing"),
    (
        {"messages": [{**USER, "role": "usr"}, REPLY], "domain": "d"},
        "messages[0].role: is 'usr'; it is one of system, user, assistant. Did you mean 'user'",
    ),
    (
        {"messages": [{**USER, "role": "style"}, REPLY], "domain": "d"},
        "messages[0].role: is 'style'",
    ),
    ({"messages": [{**USER, "role": 1}, REPLY], "domain": "d"}, "messages[0].role: is 1"),
    ({"messages": [{"role": "user"}, REPLY], "domain": "d"}, "messages[0].content: is missing"),
    (
        {"messages": [USER, {**REPLY, "content": {"base": 1}}], "domain": "d"},
        "messages[1].content: is an object, not text",
    ),
    (
        {"messages": [USER, {**REPLY, "content": ""}], "domain": "d"},
        "messages[1].content: is empty; an answer is needed",
    ),
    (
        {"messages": [USER, {**REPLY, "content": "\ud800"}], "domain": "d"},
        "messages[1].content: holds half of a surrogate pair",
    ),
    (
        {"messages": [USER], "domain": "d"},
        "messages[0].role: is 'user'; the last message must be the assistant's answer",
    ),
    (
        {"messages": [USER, {"role": "system", "content": "s"}, REPLY], "domain": "d"},
        "messages[1].role: is 'system'; only the first message may be",
    ),
    (
        {"messages": [{**USER, "name": "x"}, REPLY], "domain": "d"},
        "messages[0].name: unknown field",
    ),
    (
        {**style(instruction="i"), "messages": [{**USER, "instruction": "j"}, REPLY]},
        "differs from another instruction of the row",
    ),
]


@pytest.mark.parametrize("row, message", WRONG)
def test_wrong_rows_name_the_field(row, message):
    assert message in reasons(row)


def test_a_given_type_must_fit():
    assert (
        "domain: is missing; a row of type 'domain' needs it or condition (it has task_descr"
        in (reasons(TASK, condition_type="domain"))
    )
    assert "condition_type: is 'task', but the type 'style' was asked for" in reasons(
        {**TASK, "condition_type": "task"}, condition_type="style"
    )


def test_every_problem_of_a_row_is_found():
    row = {"messages": [{"role": "usr"}], "domain": "", "context": 1, "foo": 2}
    assert len(parse_row(row, 5)) == 5


def test_rows_to_be_answered_need_no_answer():
    assert parse_row({"messages": [USER], "domain": "d"}, 1, need_answer=False).answer is None
    silent = {"messages": [{**USER, "content": ""}], "domain": "d"}
    assert "a question is needed" in reasons(silent, need_answer=False)
    nobody = {"messages": [{"role": "system", "content": "s"}], "domain": "d"}
    assert "holds no message of a user" in reasons(nobody, need_answer=False)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TASK, "role", "content", "style", "history", "condition"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_a_row_or_has_problems(row):
    outcome = parse_row(row, 1)
    assert isinstance(outcome, Example) or outcome


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip))
def test_texts_come_through_unchanged(text):
    row = json.loads(json.dumps({"messages": [{**USER, "content": text}, REPLY], "domain": text}))
    example = parse_row(row, 1)
    assert example.messages[0].content == example.condition == text
