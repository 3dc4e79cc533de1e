"""Cleaning, passages, plays and splits of the suite: pure functions."""

from __future__ import annotations

import gzip
import hashlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.data.suite import conditions, make_tasks, task_specs, tasks
from megan_jax.data.suite.plays import parse_play
from megan_jax.data.suite.splits import SPLITS, Row, choose_unseen, split_rows
from megan_jax.data.suite.text import (
    detokenise,
    is_coarse,
    is_garbled,
    normalise,
    prose_passages,
    sentences,
    strip_markup,
    verse_passages,
)
from megan_jax.errors import UserError

PLAY = """THE PLAY

DRAMATIS PERSONAE

ANNA, a queen

ACT I. SCENE I. A room.

[Enter ANNA and
BERT.]

ANNA.
Who goes there? [Aside] I know that man
And all the things that he would say to me.

BERT.
It is I. I came along the road and nobody
saw me at all.

[He
sits.

Amen.

ANNA.
_Amen._

Enter a Servant

CAROL
My lady!

ANNA, CAROL and Dan.
Ay.

SCENE II. Another room.

BERT.
Good night -- good night.
"""


def test_play_has_speakers_words_and_scenes_without_directions():
    speeches = parse_play(PLAY)
    assert [(s.speaker, s.text) for s in speeches] == [
        ("ANNA", "Who goes there? I know that man\nAnd all the things that he would say to me."),
        ("BERT", "It is I. I came along the road and nobody saw me at all. Amen."),
        ("ANNA", "Amen."),
        ("CAROL", "My lady!"),
        ("ANNA, CAROL and Dan", "Ay."),
        ("BERT", "Good night -- good night."),
    ]
    assert [s.scene for s in speeches] == [1, 1, 1, 1, 1, 2]


def test_sentences_respect_abbreviations():
    text = "Mr. Smith met the U.S. Navy in St. Louis. He left! Did he? (Yes.) It was 5 p.m. there."
    assert sentences(text) == [
        "Mr. Smith met the U.S. Navy in St. Louis.",
        "He left!",
        "Did he?",
        "(Yes.)",
        "It was 5 p.m. there.",
    ]


@given(st.text(alphabet="ab .;A,!\n", max_size=400), st.integers(20, 80))
def test_passages_are_bounded_and_consist_of_the_text(text, longest):
    for passages in (prose_passages(text, longest, 5), verse_passages(text, longest, 5)):
        position = 0
        flat = " ".join(text.split())
        for passage in passages:
            # A closing mark may be put for another one, or where there was none.
            assert len(passage) <= longest + 1
            words = " ".join(passage.split())[:-1].rstrip(" ;:,.")
            position = flat.find(words, position)
            assert position >= 0


def test_prose_is_cut_at_sentences():
    text = "One two three. Four five six. " + "Seven " * 50 + "end. Eight nine ten."
    assert prose_passages(text, 30, 5) == ["One two three. Four five six.", "Eight nine ten."]


def test_verse_keeps_its_lines():
    text = "The first line goes\nOn to the second;\nThe third one ends."
    assert verse_passages(text, 40, 5) == [
        "The first line goes\nOn to the second.",
        "The third one ends.",
    ]


def test_markup_and_entities_go():
    html = "<p>Fish &amp;amp; chips&nbsp;cost&nbsp;<b>5</b>.<br/>Next</p>"
    assert strip_markup(html) == "Fish & chips cost 5.\nNext"


def test_detokenise():
    line = "it 's a film , ( really ) , that i did n't `` get '' . . . but loved !"
    assert detokenise(line) == "It's a film, (really), that I didn't \"get\"... but loved!"


@pytest.mark.parametrize("text", ["caf\ufffd", "youâ€™re", "a <b>", "see http://x", "Ã©t"])
def test_garbled(text):
    assert is_garbled(text) and not is_garbled("Plain café text, isn’t it?")


def test_coarse_and_normal_words():
    assert is_coarse("Thou Whoreson!") and not is_coarse("a jewel, a scrape, a shift")
    assert normalise("The  CAFÉ -- it's_open!") == normalise("the cafe\u0301 it s open")


def _rows(keys=5, groups=60, per_group=4):
    rng = random.Random(1)
    texts = [f"text number {rng.randrange(300)}" for _ in range(keys * groups * per_group)]
    return [
        Row(f"k{i % keys}", "p", text, f"g{i // (keys * per_group)}", (text,))
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("unseen", [frozenset(), frozenset({"k1", "k3"})])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_splits_are_disjoint_balanced_and_deterministic(unseen, seed):
    rows = _rows()
    splits = split_rows(rows, unseen, seed, "x", 20, 12)
    assert tuple(splits) == SPLITS
    assert splits == split_rows(rows, unseen, seed, "x", 20, 12)
    assert splits != split_rows(rows, unseen, seed + 1, "x", 20, 12)
    texts = {split: [row.texts[0] for row in kept] for split, kept in splits.items()}
    every = [text for found in texts.values() for text in found]
    assert len(every) == len(set(every))
    for split in SPLITS[1:]:
        assert 0 < len(splits[split]) <= 12
    if unseen:
        assert {row.key for row in splits["unseen_test"]} == unseen
    seen = [row for split in SPLITS[:3] for row in splits[split]]
    assert not unseen & {row.key for row in seen}
    groups = [{row.group for row in splits[split]} for split in SPLITS[:3]]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    # Balanced from the first row on.
    first = [row.key for row in splits["train"][: 5 - len(unseen)]]
    assert len(set(first)) == len(first)


def test_unseen_conditions_are_drawn_among_the_others():
    drawn = {choose_unseen("abcdef", 2, seed, "x", always_seen="ab") for seed in range(30)}
    assert all(len(keys) == 2 and not keys & set("ab") for keys in drawn) and len(drawn) > 2


# --- tasks


def test_committed_tasks():
    rows, wordings = tasks.load()
    assert tasks.ROWS_FILE.stat().st_size < 1_000_000
    assert len({spec.generator for spec in task_specs.SPECS}) >= 30
    by_task = {name: [row for row in rows if row.key == name] for name in wordings}
    assert all(len(found) >= 80 for found in by_task.values())
    for spec in task_specs.SPECS:
        assert len(set(spec.wordings)) >= 4
        for row in by_task[spec.name]:
            assert not spec.options or row.response in spec.options
            assert len(row.prompt) <= make_tasks.LONGEST_PROMPT
            # Operands only: nothing of a description, nor of the generator's question.
            assert not any(wording.lower() in row.prompt.lower() for wording in spec.wordings)
            assert "?" not in row.prompt or spec.name == "sentence_reordering"
    every = [wording for found in wordings.values() for wording in found]
    assert len(every) == len(set(every))


def test_task_answers_against_a_computation():
    import fractions
    import math

    rows, _ = tasks.load()
    checked = dict.fromkeys(ANSWERS, 0)
    for row in rows:
        if row.key in ANSWERS:
            operands = row.prompt.split(", ")
            assert row.response == ANSWERS[row.key](operands, math, fractions), row
            checked[row.key] += 1
    assert min(checked.values()) >= 100


ANSWERS = {
    "spell_backward": lambda p, m, f: p[0][::-1],
    "word_sorting/ascending": lambda p, m, f: ", ".join(sorted(p)),
    "word_sorting/descending": lambda p, m, f: ", ".join(sorted(p, reverse=True)),
    "word_sequence_reversal": lambda p, m, f: ", ".join(p[::-1]),
    "number_sorting/ascending": lambda p, m, f: ", ".join(sorted(p, key=int)),
    "gcd": lambda p, m, f: str(m.gcd(*map(int, p))),
    "lcm": lambda p, m, f: str(m.lcm(*map(int, p))),
    "products": lambda p, m, f: str(int(p[0]) * int(p[1])),
    "chain_sum": lambda p, m, f: str(sum(map(int, p))),
    "count_bits": lambda p, m, f: str(int(p[0]).bit_count()),
    "fraction_simplification": lambda p, m, f: "/".join(
        map(str, f.Fraction(p[0]).as_integer_ratio())
    ),
    "complex_arithmetic/add": lambda p, m, f: _complex_text(_complex(p[0]) + _complex(p[1])),
    "complex_arithmetic/multiply": lambda p, m, f: _complex_text(_complex(p[0]) * _complex(p[1])),
}


def _complex(text):
    return complex(text.replace(" ", "").replace("i", "j"))


def _complex_text(z):
    return f"{int(z.real)} {'-' if z.imag < 0 else '+'} {abs(int(z.imag))}i"


def test_changed_tasks_are_refused(tmp_path):
    changed = tmp_path / "tasks.jsonl.gz"
    row = {"task": "gcd", "prompt": "1, 1", "answer": "1"}
    changed.write_bytes(gzip.compress(json.dumps(row).encode()))
    with pytest.raises(UserError, match=r"doesn't have the SHA-256 .*make_tasks"):
        tasks.load(changed)
    with pytest.raises(UserError, match="Can't read the suite's tasks"):
        tasks.load(tmp_path / "missing")
    digest = hashlib.sha256(tasks.ROWS_FILE.read_bytes()).hexdigest()
    assert tasks.HASH_FILE.read_text(encoding="utf-8") == f"{digest}  {tasks.ROWS_FILE.name}\n"


def test_conditions_have_distinct_wordings_and_prompts_do_not_name_them():
    for group in (conditions.SECTIONS, conditions.STYLES, conditions.SENTIMENTS):
        every = [wording for wordings in group.values() for wording in wordings]
        assert len(every) == len(set(every)) and all(len(w) >= 4 for w in group.values())
    for section in conditions.SECTIONS:
        assert all(section.lower() not in p.lower() for p in conditions.DOMAIN_PROMPTS)
    told = " ".join(conditions.STYLE_PROMPTS + conditions.TOPIC_PROMPTS).lower().split()
    told += conditions.TOPICS
    for word in ("shakespeare", "milton", "headline", "review", "sonnet", "debate", "film"):
        assert word not in told
