"""Scoring of generated answers that are one of a few options (Q28 of docs/reference_parity.md)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from megan_jax.errors import UserError, nearest
from megan_jax.evaluation.metrics import check_pairs

MODES = ("exact", "option_aware", "include", "case_include", "strict", "case_strict")

_NUMBER_OR_CHARACTER = re.compile(r"(?<!\w)-?\d+(?:[.,:/]\d+)*%?|.", re.DOTALL)
_LEAD = re.compile(r"\b(?:answer|option|choice|label)(?: would be| should be| is)? ")
_NEGATIONS = {"not", "no", "never", "neither", "nor", "without", "cannot"}


def _keep(match: re.Match[str]) -> str:
    piece = match[0]
    return piece if len(piece) > 1 or unicodedata.category(piece)[0] in "LMN" else " "


def normalise(text: str) -> str:
    """A text in lower case and Unicode NFKC, with punctuation and repeated white space gone.

    Numbers keep their sign, decimals, fractions and percent sign: "-3.5" is not "3.5". A text of
    symbols only ("<=") stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").strip()
    return " ".join(_NUMBER_OR_CHARACTER.sub(_keep, folded).split()) or folded


def _folding(options: Sequence[str]) -> Callable[[str], str]:
    """The strongest normalisation that keeps all options apart ("C" and "C++", "may" and "May")."""
    distinct = set(options)
    for fold in (normalise, lambda text: " ".join(text.casefold().split())):
        if len({fold(option) for option in distinct}) == len(distinct):
            return fold
    return str.strip


def _spans(words: list[str], keys: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where the words of each key stand in a row, without those inside a longer such place."""
    found = []
    for key in keys:
        pattern = key.split()
        size = len(pattern)
        found += [
            (start, start + size, key)
            for start in range(len(words) - size + 1)
            if size and words[start : start + size] == pattern
        ]
    return [
        span
        for span in found
        if not any(
            other[0] <= span[0] and span[1] <= other[1] and other[:2] != span[:2] for other in found
        )
    ]


def parse_option(text: str, options: Sequence[str]) -> str | None:
    """The one option that a text gives, as `options` spells it, or None.

    In this order: (1) the whole text is an option; (2) its first line is one, and the second is
    not another; (3) an option stands right after the last "answer is", "answer:", "option" and the
    like; (4) exactly one option is mentioned. A mention is the option's words in a row; one inside
    a longer option does not count ("not related" does not mention "related"), nor does one right
    after a negation. A text with several options gives none, so that echoing the options scores
    nothing.
    """
    fold = _folding(options)
    by_key = {fold(option): option for option in options}
    lines = [fold(line) for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    whole = fold(text)
    if whole in by_key:
        return by_key[whole]
    if lines[0] in by_key and not (set(lines[1:2]) & by_key.keys()) - {lines[0]}:
        return by_key[lines[0]]
    prose = fold(re.sub(r"n['’]t\b", " not", text))
    leads = list(_LEAD.finditer(prose))
    if leads:
        rest = prose[leads[-1].end() :].split()
        spans = _spans(rest, list(by_key))
        for start, end, key in spans:
            if start == 0:
                goes_on = rest[end : end + 1] in (["or"], ["and"])
                listed = any(other[0] == end for other in spans)
                return None if goes_on or listed else by_key[key]
    words = prose.split()
    mentioned = {
        key
        for start, _, key in _spans(words, list(by_key))
        if start == 0 or words[start - 1] not in _NEGATIONS
    }
    return by_key[mentioned.pop()] if len(mentioned) == 1 else None


def _option_aware(prediction: str, reference: str, options: Sequence[str], where: str) -> bool:
    fold = _folding(options)
    if fold(reference) not in {fold(option) for option in options}:
        raise UserError(
            f"{where}: the answer {reference!r} is not among the options {list(options)}: "
            "add it to the options, or score with mode 'exact'."
        )
    given = parse_option(prediction, options)
    return given is not None and fold(given) == fold(reference)


def score_choice(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    mode: str = "exact",
    options: Sequence[Sequence[str]] | None = None,
) -> list[int]:
    """1 or 0 per item: does the prediction give the reference answer?

    mode: "exact": equal after `normalise`; "option_aware": the option that `parse_option` finds in
        the prediction is the reference. The other four are the reference's
        `get_classification_results`, character for character: "include" (its default: the answer
        occurs anywhere in the lower-cased text, so that "not_entailment" passes for "entailment"),
        "case_include" (the same with case), "strict" (lower-cased equality) and "case_strict".
    options: the answer options of each item; mode "option_aware" needs them.
    Raises `UserError` for an unknown mode, lists of different length, and options that are missing
    or lack the answer.
    """
    check_pairs(predictions, references)
    if mode not in MODES:
        raise UserError(
            f"Unknown choice mode {mode!r}: choose one of {', '.join(MODES)}.{nearest(mode, MODES)}"
        )
    if mode == "option_aware":
        if options is None or len(options) != len(references):
            raise UserError(
                "Choice mode 'option_aware' needs the answer options of every item: "
                "give them, or score with mode 'exact'."
            )
        return [
            int(_option_aware(prediction, reference, choices, f"Item {i}"))
            for i, (prediction, reference, choices) in enumerate(
                zip(predictions, references, options, strict=True)
            )
        ]
    rule: Callable[[str, str], bool] = {
        "exact": lambda given, truth: normalise(given) == normalise(truth),
        "include": lambda given, truth: truth.lower() in given.lower(),
        "case_include": lambda given, truth: truth in given,
        "strict": lambda given, truth: truth.lower() == given.lower(),
        "case_strict": lambda given, truth: truth == given,
    }[mode]
    return [
        int(rule(prediction, reference))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
