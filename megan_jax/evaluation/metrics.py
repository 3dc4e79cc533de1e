"""Corpus metrics of generated text: ROUGE-L, BLEU-2, distinct-n and the Zipf slope.

Each equals what the reference's `evaluate_style.py` computes where its `compat` argument says so
(`docs/reference_parity.md`, Q27), and by default what the literature means by the name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from megan_jax.errors import UserError, nearest

DISTINCT_LEVELS = ("word", "char")


def check_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raises `UserError` unless there is one prediction per reference, and at least one."""
    if len(predictions) != len(references):
        raise UserError(
            f"There are {len(predictions)} predictions but {len(references)} references: "
            "give one reference per prediction."
        )
    if not predictions:
        raise UserError("There is nothing to score: the list of predictions is empty.")


@cache
def _rouge_scorer():
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L F-measure in [0, 1] with Porter stemming (Lin, 2004; package rouge-score).

    The reference computes the same, so there is no `compat` argument.
    """
    check_pairs(predictions, references)
    scorer = _rouge_scorer()
    scores = [
        scorer.score(target=reference, prediction=prediction)["rougeL"].fmeasure
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return math.fsum(scores) / len(scores)


def bleu_2(predictions: Sequence[str], references: Sequence[str], *, compat: bool = False) -> float:
    """Mean sentence BLEU-2 in [0, 1]: equal weights on 1- and 2-grams, NIST smoothing (method 3).

    compat: False splits on any white space, and gives a one-word text its unigram score alone, so
        that an exact match is 1; True is the reference: it splits on single blanks and smooths
        the missing bigram, so that an exact one-word match is 0.7071.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    check_pairs(predictions, references)
    smoothing = SmoothingFunction().method3
    scores = []
    for prediction, reference in zip(predictions, references, strict=True):
        words, truth = (
            (prediction.split(" "), reference.split(" "))
            if compat
            else (prediction.split(), reference.split())
        )
        if not compat and (not words or not truth):
            scores.append(float(words == truth))
            continue
        single = not compat and min(len(words), len(truth)) == 1
        weights = (1.0,) if single else (0.5, 0.5)
        scores.append(
            float(sentence_bleu([truth], words, weights=weights, smoothing_function=smoothing))
        )
    return math.fsum(scores) / len(scores)


def distinct_n(predictions: Sequence[str], n: int, *, level: str = "word") -> float:
    """Unique n-grams ÷ all n-grams over the whole corpus, in [0, 1] (Li et al., 2016).

    level: "word" (white-space words) or "char" (what the reference computes: characters).
    Returns 0.0 where no text has `n` units.
    """
    if level not in DISTINCT_LEVELS:
        raise UserError(
            f"Unknown level {level!r} of distinct-n: choose one of {', '.join(DISTINCT_LEVELS)}."
            + nearest(level, DISTINCT_LEVELS)
        )
    if n < 1:
        raise UserError(f"distinct-n needs n of at least 1, not {n}.")
    unique: set[tuple[str, ...]] = set()
    total = 0
    for text in predictions:
        units = text.split() if level == "word" else text
        grams = [tuple(units[i : i + n]) for i in range(len(units) - n + 1)]
        unique.update(grams)
        total += len(grams)
    return len(unique) / total if total else 0.0


def zipf_slope(predictions: Sequence[str], *, compat: bool = False) -> float:
    """Slope of ln(frequency) over ln(rank) of all white-space words; natural text is near -1.

    Least squares over all ranks. Below ten different words a slope means little: the result is
    NaN, with `compat` the reference's 0.0.
    """
    counts = Counter(word for text in predictions for word in text.split())
    if len(counts) < 10:
        return 0.0 if compat else math.nan
    frequency = np.sort(np.array(list(counts.values()), dtype=np.float64))[::-1]
    rank = np.arange(1, len(frequency) + 1, dtype=np.float64)
    return float(np.polyfit(np.log(rank), np.log(frequency), 1)[0])


def generation_metrics(
    predictions: Sequence[str], references: Sequence[str], *, compat: bool = False
) -> dict[str, float]:
    """All metrics of free text at once, by name; `compat` gives the reference's arithmetic."""
    level = "char" if compat else "word"
    return {
        "rouge_l": rouge_l(predictions, references),
        "bleu_2": bleu_2(predictions, references, compat=compat),
        "distinct_1": distinct_n(predictions, 1, level=level),
        "distinct_2": distinct_n(predictions, 2, level=level),
        "zipf": zipf_slope(predictions, compat=compat),
    }
