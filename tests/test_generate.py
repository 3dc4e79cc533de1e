"""The generate command: flags, chat, files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megan_jax import generate
from megan_jax.commands import run_command
from megan_jax.data.requests import Request
from megan_jax.errors import UserError
from tests.runs import run_training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_training(tmp_path_factory.mktemp("generate"), "run", "--config.train.steps=2")


def ask(run: Path, *more: str) -> int:
    return generate.main(["--model", str(run), "--max-new-tokens=4", *more])


def test_one_answer_is_printed_and_repeats(run: Path, capsys: pytest.CaptureFixture[str]):
    answers = []
    for _ in range(2):
        assert ask(run, "--prompt", "Word 1?", "--condition", "say the first word") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != ""


def test_a_file_is_answered_row_by_row(run: Path, tmp_path: Path):
    rows = [
        {"prompt": "Word 1?", "condition": "say the first word", "id": 7},
        {"prompt": "Word 1?", "condition": None},
        {"prompt": "Word 1?", "condition": "None"},
        {"prompt": "Word 1?"},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows))
    assert ask(run, "--input", str(source), "--output", str(target)) == 0
    out = [json.loads(line) for line in target.read_text().splitlines()]
    responses = [row.pop("response") for row in out]
    assert out == rows
    assert all(isinstance(text, str) for text in responses)
    # Null, "None" and no condition at all are the base model.
    assert responses[1] == responses[2] == responses[3]


def test_rows_of_messages_are_answered_under_their_own_condition(run: Path, tmp_path: Path):
    user = {"role": "user", "content": "Word 1?"}
    assistant = {"role": "assistant", "content": "alpha", "style": "say the first word"}
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"messages": [user, assistant]}))
    assert ask(run, "--input", str(source), "--output", str(target)) == 0
    (row,) = (json.loads(line) for line in target.read_text().splitlines())
    assert row["messages"] == [user, assistant] and "response" in row


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":1: not JSON"),
        ("[]", ":1: a row is a JSON object"),
        ('{"prompt": ""}', 'field "prompt"'),
        ('{"prompt": "x", "condition": " "}', 'field "condition" is empty'),
        ('{"prompt": "x", "condition": 3}', 'field "condition"'),
        ("", "no rows"),
    ],
)
def test_bad_rows_are_named_before_anything_is_loaded(tmp_path: Path, line: str, message: str):
    source = tmp_path / "in.jsonl"
    source.write_text(line)
    with pytest.raises(UserError) as error:
        ask(Path("/nowhere"), "--input", str(source), "--output", str(tmp_path / "out.jsonl"))
    assert message in str(error.value) and str(source) in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "exactly one of"),
        (["--prompt", "x", "--interactive"], "exactly one of"),
        (["--prompt", "x", "--output", "o"], "belong together"),
        (["--prompt", "x", "--condition", "  "], "the condition is empty"),
        (["--prompt", "x", "--max-new-tokens", "0"], "at least 1"),
        (["--prompt", "x", "--temperature=-1"], "not be negative"),
        (["--prompt", "x", "--top-p", "0"], "(0, 1]"),
        (["--prompt", "x"], "no such file or folder"),
        (["--input", "/nowhere.jsonl", "--output", "o"], "/nowhere.jsonl"),
    ],
)
def test_bad_flags_are_one_message(flags: list[str], message: str):
    with pytest.raises(UserError) as error:
        generate.main(["--model", "/nowhere", *flags])
    assert message in str(error.value)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(run: Path, tmp_path: Path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "Word 1?"}')
    with pytest.raises(UserError, match="no such folder"):
        ask(run, "--input", str(source), "--output", str(tmp_path / "none" / "out.jsonl"))


def test_answers_before_a_row_that_fails_are_kept(tmp_path: Path):
    rows = [Request({"prompt": text}, ({"role": "user", "content": text},), None) for text in "abc"]

    def answer(messages: list[dict[str, str]], condition: str | None) -> str:
        if messages[0]["content"] == "c":
            raise UserError("too long.")
        return "fine"

    target = tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=r"row 3: too long\..*out\.jsonl\.partial"):
        generate.write_answers(rows, target, answer)
    assert not target.exists()
    kept = (tmp_path / "out.jsonl.partial").read_text().splitlines()
    assert [json.loads(line) for line in kept] == [
        {"prompt": "a", "response": "fine"},
        {"prompt": "b", "response": "fine"},
    ]
    generate.write_answers(rows[:2], target, answer)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_the_command_ends_with_one_line_and_no_traceback(capsys: pytest.CaptureFixture[str]):
    code = run_command(generate.main, ["--model", "/nowhere", "--prompt", "x"])
    captured = capsys.readouterr()
    assert code != 0 and "Traceback" not in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


class Typist:
    """Types lines and then ends the input; records what was asked."""

    def __init__(self, *lines: str):
        self.lines = list(lines)
        self.asked: list[tuple[list[str], str | None]] = []

    def read(self, prompt: str) -> str:
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    def answer(self, messages: list[dict[str, str]], condition: str | None) -> str:
        self.asked.append(([m["content"] for m in messages], condition))
        if messages[-1]["content"] == "too long":
            raise UserError("too long.")
        return f"answer {len(self.asked)}"


def test_the_chat_keeps_the_conversation_and_changes_the_condition(
    capsys: pytest.CaptureFixture[str],
):
    typist = Typist(
        "hello", "", "more", "/condition  Milton", "again", "/condition", "too long",
        "still", "/reset", "/condition None", "plain", "/what", "/quit", "never",
    )  # fmt: skip
    generate.chat(typist.answer, None, typist.read)
    assert typist.asked == [
        (["hello"], None),
        (["hello", "answer 1", "more"], None),
        (["again"], "Milton"),
        (["again", "answer 3", "too long"], "Milton"),
        (["again", "answer 3", "still"], "Milton"),
        (["plain"], None),
    ]
    shown = capsys.readouterr().out
    assert "condition: Milton" in shown and "condition: None" in shown
    assert "error: the condition is empty" in shown and "error: too long." in shown
    assert "unknown command /what" in shown


def test_the_chat_ends_with_the_input():
    typist = Typist("hello")
    generate.chat(typist.answer, "x", typist.read)
    assert typist.asked == [(["hello"], "x")]
