"""Scoring of numeric answers: a real number parser, and the reference's arithmetic beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from megan_jax.errors import UserError, nearest
from megan_jax.evaluation.metrics import check_pairs

MODES = ("number", "reference")

# A comma is a thousands mark only in proper groups of three; any other one separates numbers.
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(
    # A minus after an operand subtracts ("10-7"); one set off by a blank is a sign only after "=".
    r"(?P<sign>(?<![\w.)\]}%])-|(?<==)\s-\s|(?<==)-\s)?"
    r"(?:[$€£](?P<late>-)?)?"
    rf"(?:(?P<whole>(?<![\d.,/])\d+)\s(?=\d+/\d))?(?<![\d.])(?P<top>{_UNSIGNED})"
    r"(?:[eE](?P<exponent>[-+]?\d{1,3})\b)?"
    rf"(?:\s?/\s?(?P<bottom>{_UNSIGNED})(?![\d/]))?",
    re.ASCII,
)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")
_LONGEST = 1000
_REFERENCE_NUMBER = re.compile(r"\d*\.?\d+")


def _boxed(text: str) -> str | None:
    """The contents of the last LaTeX ``\\boxed{…}``, braces matched, or None."""
    opening = "\\boxed{"
    start = text.rfind(opening)
    if start < 0:
        return None
    depth = 1
    for i in range(start + len(opening), len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len(opening) : i]
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > _LONGEST:
        return None
    parts = {name: (match[name] or "").replace(",", "") for name in ("whole", "top", "bottom")}
    value = Fraction(parts["top"])
    if match["exponent"]:
        value *= Fraction(10) ** int(match["exponent"])
    if parts["bottom"]:
        if Fraction(parts["bottom"]) == 0:
            return None
        value /= Fraction(parts["bottom"])
    if parts["whole"]:
        value += Fraction(parts["whole"])
    return -value if match["sign"] or match["late"] else value


def parse_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer, exactly, or None where it gives none.

    Looked for in the last LaTeX ``\\boxed{…}``, else after the last ``####``, else in the whole
    text; of several numbers the last one counts. Understood: signs, thousands commas, decimals,
    fractions ``a/b`` and ``\\frac{a}{b}``, mixed numbers ("1 1/2"), exponents, a currency sign in
    front. A percent sign is a unit and is dropped: "25%" is 25, as collections of word problems
    write it. Zero is a number; a division by zero is none.
    """
    # A real minus sign, and the LaTeX spellings of a thousands comma and of a blank.
    text = text.replace("\u2212", "-").replace("{,}", ",").replace("\\,", "").replace("\\$", "$")
    boxed = _boxed(text)
    text = boxed if boxed is not None else text.rsplit("####", 1)[-1]
    text = _LATEX_FRACTION.sub(r"\1/\2", re.sub(r"(?<=\d)\s*(?=\\[dt]?frac)", " ", text))
    found = list(_NUMBER.finditer(text))
    return _value(found[-1]) if found else None


def parse_reference(text: str) -> float | None:
    """The reference's parser (`get_exact_number` in evaluate_style.py).

    After the first ``#### `` if there is one, the last match of ``\\d*\\.?\\d+``: signs are lost,
    and a thousands comma ends the number.
    """
    text = text.strip()
    if "#### " in text:
        text = text.split("#### ")[1]
    found = _REFERENCE_NUMBER.findall(text)
    return float(found[-1]) if found else None


def _correct_as_reference(prediction: str, reference: str) -> bool:
    given, truth = parse_reference(prediction), parse_reference(reference)
    # `not given` also holds for 0.0: in the reference an answer of zero is never right.
    if not given or truth is None or float("inf") in (given, truth):
        return False
    return int(given) == int(truth)


def is_correct(prediction: str, reference: str, *, mode: str = "number") -> bool:
    """Whether `prediction` gives the number in `reference`.

    mode: "number" compares the exact values of `parse_number` (2.50 is 5/2, 0.33 is not 1/3);
        "reference" is the authors' `get_math_results`, which cuts decimals off (3.9 is 3).
    Raises `UserError` for an unknown mode, and in mode "number" for a reference without a number.
    """
    if mode == "reference":
        return _correct_as_reference(prediction, reference)
    if mode != "number":
        raise UserError(
            f"Unknown maths mode {mode!r}: choose one of {', '.join(MODES)}.{nearest(mode, MODES)}"
        )
    truth = parse_number(reference)
    if truth is None:
        raise UserError(
            f"The reference answer {reference[:80]!r} holds no number: maths scoring needs one."
        )
    return parse_number(prediction) == truth


def score_maths(
    predictions: Sequence[str], references: Sequence[str], *, mode: str = "number"
) -> list[int]:
    """1 or 0 per item (`is_correct`). Raises `UserError` also for lists of different length."""
    check_pairs(predictions, references)
    return [
        int(is_correct(prediction, reference, mode=mode))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
