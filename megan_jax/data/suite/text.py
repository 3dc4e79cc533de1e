"""Cleaning text and cutting it into short passages. Pure functions."""

from __future__ import annotations

import html
import re
import unicodedata

LONGEST = 180
SHORTEST = 40

_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Ste|Gen|Sen|Gov|Rep|Jr|Sr|Lt|Col|Capt|No|vs|etc|est|ca|approx|Inc|Co"
    r"|Prof|vol|cf|Mt|ft|sq|Sept|Oct|Nov|Dec|Jan|Feb|Aug)|\b[A-Za-z])\.$"
)
_PROSE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')”’]))\s+(?=[\"'(“‘]?[A-Z0-9])")
_CLAUSE_END = re.compile(r"(?<=;)\s+")
_VERSE_END = re.compile(r"(?<=[.!?;:])\n")

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]"
)
_COARSE = re.compile(
    r"\b(?:jew(?:s|ess)?|strumpets?|whor\w*|bastards?|slut\w*|bitch\w*|harlots?|nigg\w*|negro\w*"
    r"|fuck\w*|shit\w*|cunt\w*|fag\w*|rape[ds]?|raping|retard\w*|incest\w*|porn\w*|nazi\w*)\b",
    re.IGNORECASE,
)


def strip_markup(text: str) -> str:
    """Removes HTML tags and entities; a line break or the end of a paragraph becomes a newline."""
    text = re.sub(r"<\s*(?:br|/p|/li|/div)\b[^>]*>", "\n", text, flags=re.IGNORECASE)
    text = re.sub(r"<[^<>]*>", "", text)
    text = html.unescape(html.unescape(text))
    return tidy(text)


def tidy(text: str) -> str:
    """Composed Unicode without control characters; single spaces, no blank lines or line ends."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text).replace("\u00a0", " "))
    lines = (re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def is_garbled(text: str) -> bool:
    """Whether a text holds the traces of a wrong decoding or of leftover markup."""
    return bool(re.search(r"[\ufffdÂÃ]|â€|[\x80-\x9f]|[<>{}|\\\[\]_*#]|&\w+;|https?:|www\.", text))


def is_coarse(text: str) -> bool:
    """Whether a text holds a slur or an obscenity, which no sample of the suite should show."""
    return bool(_COARSE.search(text))


def normalise(text: str) -> str:
    """What two texts that count as the same have in common: their lower-case letters and digits."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKD", text).casefold()).strip()


def sentences(text: str) -> list[str]:
    """Splits prose (on one line) into sentences; abbreviations and initials don't end one."""
    found: list[str] = []
    for piece in _PROSE_END.split(text):
        if found and _ABBREVIATION.search(found[-1]):
            found[-1] += " " + piece
        else:
            found.append(piece)
    return found


def prose_passages(text: str, longest: int = LONGEST, shortest: int = SHORTEST) -> list[str]:
    """Cuts prose into consecutive passages of whole sentences (or clauses, where one is too long).

    Args:
      text: any text; its line breaks count as spaces.
      longest, shortest: bounds of a passage, in characters; what doesn't fit is left out.
    """
    pieces: list[str] = []
    for sentence in sentences(" ".join(text.split())):
        if len(sentence) <= longest:
            pieces.append(sentence)
        else:
            # An over-long sentence is replaced by its first clauses; the rest of it is dropped.
            head = _gather(_CLAUSE_END.split(sentence), " ", longest, shortest)[:1]
            pieces += head if head and head[0].endswith(";") else [""]
    return [_close(passage) for passage in _gather(pieces, " ", longest, shortest)]


def verse_passages(text: str, longest: int = LONGEST, shortest: int = SHORTEST) -> list[str]:
    """Cuts verse into consecutive passages of whole lines that end where a clause ends."""
    return [_close(p) for p in _gather(_VERSE_END.split(text), "\n", longest, shortest)]


def _gather(pieces: list[str], joint: str, longest: int, shortest: int) -> list[str]:
    """Joins neighbours as long as they fit; an empty or over-long piece ends a passage."""
    passages: list[str] = []
    current = ""
    for piece in pieces:
        joined = current + joint + piece if current else piece
        if piece and len(joined) <= longest:
            current = joined
            continue
        passages.append(current)
        current = piece if len(piece) <= longest else ""
    passages.append(current)
    return [passage for passage in passages if len(passage) >= shortest]


def _close(passage: str) -> str:
    passage = re.sub(r"(?<=[.!?])\s--$", "", passage)
    return re.sub(r"\s*[;:,]$|(?<=[\w)])$", ".", passage)


def detokenise(text: str) -> str:
    """Undoes the spaces that a tokeniser put around punctuation, and begins with a capital."""
    text = text.replace("``", '"').replace("''", '"').replace("`", "'")
    text = re.sub(r"\s+([,.;:!?%)\]]|n't\b|'(?:s|re|ve|ll|d|m)\b)", r"\1", text)
    text = re.sub(r"([(\[$])\s+", r"\1", text)
    text = re.sub(r'"\s*([^"]*?)\s*"', r'"\1"', text)
    text = re.sub(r"\bi\b(?=\s|'|,|\.)", "I", text)
    text = re.sub(r"\.\s\.\s?\.|\.\s\.", "...", text)
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]
