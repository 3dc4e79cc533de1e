"""Reads the speeches of a play, as Project Gutenberg lays one out, with who speaks them."""

from __future__ import annotations

import collections
import re
from dataclasses import dataclass

from megan_jax.data.suite.text import tidy

_LABEL = re.compile(
    r"(?:[A-Z][A-Za-z'&]*\.?,? (?:and |of |OF |of the |AND )?){0,3}[A-Z][A-Za-z'&]*\.?"
)
_DIVISION = re.compile(r"\s*(?:ACT|SCENE|Act|Scene|PROLOGUE|EPILOGUE|INDUCTION)\b")
_BARE_DIRECTION = re.compile(
    r"\s*(?:Re-)?(?:Enter|Exit|Exeunt|Flourish|Alarum|Sennet|Retreat|Manet|THE END|FINIS)\b"
)
# A name in small letters that stands only once alone on a line is taken for a line of speech.
FEWEST_SPEECHES = 2


@dataclass(frozen=True)
class Speech:
    """One speech: the speaker's label as printed (without its full stop), the words, the scene."""

    speaker: str
    text: str
    scene: int


def parse_play(source: str) -> list[Speech]:
    """Returns the speeches of a play in order, without stage directions.

    Verse keeps its lines; the lines of prose, which the source wraps too, are joined.
    """
    body = source.replace("\r\n", "\n").replace("\r", "\n")
    # A closing bracket is missing here and there: a direction ends at a blank line at the latest.
    body = re.sub(r"\[(?:(?!\n\s*\n)[^\]])*(?:\]|(?=\n\s*\n)|$)", "", body).replace("_", "")
    body = re.sub(r"\((?:Aside|Exit|Exeunt|Enter|To|Within|Reads|Sings)[^)]*\)\.?", "", body)
    lines = [line.rstrip() for line in body.split("\n")]
    counts = collections.Counter(
        label for i in range(len(lines)) if (label := _label(lines, i)) is not None
    )
    speeches: list[Speech] = []
    words: list[str] = []
    speaker, scene = "", 0

    def finish() -> None:
        text = _lines_or_prose(words)
        # What stands before the first act is a title and a list of characters.
        if speaker and text and scene > 0:
            speeches.append(Speech(speaker, text, scene))

    for i, line in enumerate(lines):
        label = _label(lines, i)
        if _DIVISION.match(line):
            finish()
            speaker, words, scene = "", [], scene + 1
        elif label is not None and _is_label(label, counts[label]):
            finish()
            speaker, words = label, []
        elif not _BARE_DIRECTION.match(line):
            words.append(line)
    finish()
    return speeches


def _is_label(label: str, count: int) -> bool:
    """Whether a name alone on a line, `count` times in the play, is that of a speaker."""
    return label.replace(" and ", " ").isupper() or " and " in label or count >= FEWEST_SPEECHES


def _label(lines: list[str], i: int) -> str | None:
    """The speaker's label on line i (a name alone after a blank line), or None."""
    line = lines[i].strip()
    if not line or len(line) > 30 or (i > 0 and lines[i - 1].strip()):
        return None
    if not _LABEL.fullmatch(line) or not (line.endswith(".") or line.isupper()):
        return None
    return line.removesuffix(".")


def _lines_or_prose(lines: list[str]) -> str:
    text = tidy("\n".join(lines)).replace("--", " -- ").replace("  ", " ")
    text = re.sub(r"\s*--\s*", " -- ", text.replace("\n", "\0")).replace("\0", "\n")
    text = re.sub(r"[ \t]+([,.;:!?])", r"\1", text)
    kept = [line.strip() for line in text.split("\n") if line.strip()]
    # Every line of verse begins with a capital; prose is wrapped anywhere.
    verse = all(re.match(r"[\"'(]*[A-Z]", line) for line in kept)
    return ("\n" if verse else " ").join(kept)
