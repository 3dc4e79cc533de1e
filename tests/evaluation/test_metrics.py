"""Metrics of free text against values worked out by hand and slow plain versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.errors import UserError
from megan_jax.evaluation.metrics import bleu_2, distinct_n, generation_metrics, rouge_l, zipf_slope

WORDS = st.lists(st.sampled_from(["a", "b", "c", "dog", "cats", "running"]), max_size=8)


def longest_common(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + longest_common(first[1:], second[1:])
    return max(longest_common(first[1:], second), longest_common(first, second[1:]))


@given(WORDS, WORDS)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(first, second):
    common = longest_common(first, second)
    wanted = 2 * common / (len(first) + len(second)) if common else 0.0
    assert rouge_l([" ".join(first)], [" ".join(second)]) == pytest.approx(wanted)


def test_rouge_l_stems_and_averages():
    assert rouge_l(["cats running", "x"], ["cat runs", "y"]) == pytest.approx(0.5)


def test_bleu_2_by_hand():
    # 3 of 4 words and 2 of 3 word pairs match, and both texts have four words.
    assert bleu_2(["the cat sat down"], ["the cat sat up"]) == pytest.approx(
        math.sqrt(3 / 4 * 2 / 3)
    )
    # Three of four words: the brevity penalty is exp(1 - 4/3).
    assert bleu_2(["the cat sat"], ["the cat sat up"]) == pytest.approx(math.exp(-1 / 3))


def test_bleu_2_of_one_word_is_one_unless_compat():
    assert bleu_2(["yes"], ["yes"]) == 1.0
    assert bleu_2(["yes"], ["yes"], compat=True) == pytest.approx(math.sqrt(0.5))
    assert bleu_2([""], ["yes"]) == bleu_2([""], ["yes"], compat=True) == 0.0


def test_bleu_2_compat_sees_every_blank():
    assert bleu_2(["a  b c"], ["a b c"]) == 1.0
    assert bleu_2(["a  b c"], ["a b c"], compat=True) < 1.0


@given(st.lists(WORDS, max_size=4), st.integers(1, 3))
def test_distinct_n_counts_over_the_corpus(texts, n):
    grams = [
        tuple(text[i : i + n]) for text in texts for i in range(len(text)) if i + n <= len(text)
    ]
    wanted = len(set(grams)) / len(grams) if grams else 0.0
    assert distinct_n([" ".join(text) for text in texts], n) == wanted


def test_distinct_n_levels():
    assert distinct_n(["aa ab"], 1) == 1.0
    assert distinct_n(["aa ab"], 1, level="char") == 3 / 5
    with pytest.raises(UserError, match=r"Unknown level 'chars' .* Did you mean 'char'\?"):
        distinct_n(["a"], 1, level="chars")
    with pytest.raises(UserError, match="n of at least 1, not 0"):
        distinct_n(["a"], 0)


def test_zipf_slope_of_an_exact_power_law():
    counts = [2520 // rank for rank in range(1, 11)]
    text = " ".join(f"w{rank} " * count for rank, count in enumerate(counts))
    assert zipf_slope([text]) == pytest.approx(-1.0, abs=1e-12)


def test_zipf_slope_needs_ten_words():
    assert math.isnan(zipf_slope(["a b c"]))
    assert zipf_slope(["a b c"], compat=True) == 0.0


def test_lists_must_fit():
    with pytest.raises(UserError, match="2 predictions but 1 references"):
        generation_metrics(["a", "b"], ["a"])
    with pytest.raises(UserError, match="nothing to score"):
        rouge_l([], [])


def test_generation_metrics_uses_compat_throughout():
    predictions, references = ["yes", "no no"], ["yes", "no"]
    plain = generation_metrics(predictions, references)
    compat = generation_metrics(predictions, references, compat=True)
    assert plain["distinct_1"] == 2 / 3
    assert compat["distinct_1"] == 6 / 8
    assert plain["bleu_2"] > compat["bleu_2"]
    assert np.isnan(plain["zipf"]) and compat["zipf"] == 0.0
