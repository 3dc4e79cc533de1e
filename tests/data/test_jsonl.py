"""The authors' JSONL as it is, and every way in which a file can be wrong."""

import json
import logging

import pytest

from megan_jax.data.example import Message
from megan_jax.data.jsonl import load_jsonl, load_task_descriptions, problems, read_jsonl
from megan_jax.errors import UserError

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


def write(folder, *rows, name="data.jsonl"):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_a_task_row(tmp_path):
    (example,) = read_jsonl(write(tmp_path, TASK))
    assert example.condition_type == "task"
    assert example.condition == "Decide."
    assert example.condition_key == example.task == "scitail"
    assert example.options == ("a", "b")
    assert example.instruction.startswith("which of the following")
    assert example.messages == (Message("user", "q"), Message("assistant", "a"))
    assert example.source == f"{tmp_path / 'data.jsonl'}:1"


def test_task_descriptions_become_paraphrases(tmp_path):
    known = {"scitail": ("Decide.", "Judge.", "Tell."), "other": ("x",)}
    (example,) = read_jsonl(write(tmp_path, TASK), task_descriptions=known)
    assert example.paraphrases == ("Judge.", "Tell.")


def test_rows_to_be_answered(tmp_path):
    path = write(tmp_path, {"messages": [USER], "domain": "d"})
    assert read_jsonl(path, need_answer=False)[0].answer is None
    with pytest.raises(UserError, match=r"data.jsonl:1: .*the last message must be the assistant"):
        read_jsonl(path)


LINES = [
    (b"{", "not valid JSON at column 2"),
    (b"", "is an empty line; remove it"),
    (b"  \r", "is an empty line; remove it"),
    (b'{"messages": "\xff"}', r"is not UTF-8 \(byte 15 of the line\)"),
    (b'{"domain": "a", "domain": "b"}', "field 'domain' is given twice"),
    (b"[" * 100_000, "nested too deeply|not valid JSON"),
    (b"1" * 5000, "a number of too many digits"),
    (b"null", "is null, not an object"),
]


@pytest.mark.parametrize("line, message", LINES)
def test_bad_lines_stop_with_file_and_line(tmp_path, line, message):
    path = write(tmp_path, TASK, line, TASK)
    with pytest.raises(UserError, match=rf"data.jsonl:2: .*({message}).*data check"):
        read_jsonl(path)


@pytest.mark.parametrize(
    "start, message",
    [(b"\xef\xbb\xbf", "starts with a byte order mark"), (b"\xff\xfe", "is UTF-16")],
)
def test_byte_order_marks(tmp_path, start, message):
    path = write(tmp_path, start + json.dumps(TASK).encode())
    with pytest.raises(UserError, match=f"data.jsonl:1: {message}"):
        read_jsonl(path)


def test_unicode_line_separators_are_part_of_a_text(tmp_path):
    row = {"messages": [USER, {**REPLY, "content": "a\u2028b\x85c"}], "domain": "d"}
    path = write(tmp_path, json.dumps(row, ensure_ascii=False).encode())
    assert read_jsonl(path)[0].answer == "a\u2028b\x85c"


def test_a_last_line_without_newline_and_windows_line_ends(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(TASK).encode() + b"\r\n" + json.dumps(style()).encode())
    assert [example.condition_type for example in read_jsonl(path)] == ["task", "style"]


def test_bad_lines_are_set_aside_verbatim(tmp_path, caplog):
    bad = [b'{"messages": "\xff"}', b"{oops", b'{"a": 1}\r']
    path = write(tmp_path, TASK, *bad, style())
    before = path.read_bytes()
    target = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        loaded = load_jsonl(path, on_error="skip", quarantine=target)
    assert [example.condition_type for example in loaded.examples] == ["task", "style"]
    assert loaded.skipped == 3
    assert loaded.quarantine == target / "data.quarantine.jsonl"
    assert loaded.quarantine.read_bytes() == b"".join(line + b"\n" for line in bad)
    reasons = (target / "data.quarantine.txt").read_text().splitlines()
    assert [reason.split(":")[1] for reason in reasons] == ["2", "3", "4", "4", "4"]
    assert "skipped 3 of 5 lines" in caplog.text
    assert path.read_bytes() == before
    load_jsonl(path, on_error="skip", quarantine=target)
    assert loaded.quarantine.read_bytes() == b"".join(line + b"\n" for line in bad)


def test_the_quarantine_is_beside_the_file_by_default(tmp_path):
    path = write(tmp_path, TASK, b"{")
    read_jsonl(path, on_error="skip")
    assert (tmp_path / "data.quarantine.jsonl").read_bytes() == b"{\n"


def test_nothing_is_set_aside_from_a_good_file(tmp_path):
    loaded = load_jsonl(write(tmp_path, TASK), on_error="skip", quarantine=tmp_path / "run")
    assert (loaded.skipped, loaded.quarantine) == (0, None)
    assert not (tmp_path / "run").exists()


def test_a_quarantine_that_cannot_be_written(tmp_path):
    path = write(tmp_path, TASK, b"{")
    with pytest.raises(UserError, match=r"data.jsonl.*cannot be written"):
        read_jsonl(path, on_error="skip", quarantine=path / "sub")


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_empty_files(tmp_path, on_error):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"data.jsonl: no rows to use: it is empty"):
        read_jsonl(path, on_error=on_error)
    assert [str(problem) for problem in problems(path)] == [
        "the file is empty; it needs one JSON object per line."
    ]


def test_a_file_of_bad_rows_only(tmp_path):
    path = write(tmp_path, b"{", b"{")
    with pytest.raises(UserError, match=r"none of its 2 lines is a good row. First: data.jsonl:1"):
        read_jsonl(path, on_error="skip")


def test_paths_and_settings(tmp_path):
    with pytest.raises(UserError, match=r"nothere.jsonl: cannot be read: No such file"):
        read_jsonl(tmp_path / "nothere.jsonl")
    with pytest.raises(UserError, match=r"is a folder; a JSONL file is needed"):
        read_jsonl(tmp_path)
    path = write(tmp_path, TASK)
    with pytest.raises(UserError, match=r"data.on_error is 'skp'.*Did you mean 'skip'"):
        read_jsonl(path, on_error="skp")
    with pytest.raises(UserError, match=r"unknown condition type 'tusk'.*Did you mean 'task'"):
        read_jsonl(path, "tusk")


DESCRIPTIONS = """\
scitail:
  descriptions:
    - Decide.
    - "Judge: now."
descriptions:
  - Lost.
piqa:
  descriptions: [Choose.]
"""


def test_task_descriptions_keep_the_nameless_apart(tmp_path):
    path = tmp_path / "task_descs.yaml"
    path.write_text(DESCRIPTIONS)
    loaded = load_task_descriptions(path)
    assert loaded.by_task == {"scitail": ("Decide.", "Judge: now."), "piqa": ("Choose.",)}
    assert loaded.nameless == ("Lost.",)


@pytest.mark.parametrize(
    "content, message",
    [
        ("a: [", "task_descs.yaml:2: not valid YAML"),
        ("- a", "task_descs.yaml: needs the shape"),
        ("", "needs the shape"),
        ("a: [x]", "task 'a' needs one field"),
        ("a: {descriptions: []}", "descriptions of 'a' are not a list of texts"),
        ("a: {descriptions: [1]}", "descriptions of 'a' are not a list of texts"),
        ("descriptions: ['']", "descriptions of 'descriptions' are not a list of texts"),
        ("a: !!python/object/apply:os.system [x]", "not valid YAML"),
    ],
)
def test_bad_task_descriptions(tmp_path, content, message):
    path = tmp_path / "task_descs.yaml"
    path.write_text(content + "\n" if content else "")
    with pytest.raises(UserError, match=message):
        load_task_descriptions(path)
