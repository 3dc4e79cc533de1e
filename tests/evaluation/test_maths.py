"""The number parser on written numbers of every kind, and the reference's arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megan_jax.errors import UserError
from megan_jax.evaluation.maths import is_correct, parse_number, score_maths


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("-7", -7),
        ("\u22127", -7),
        ("-$5", -5),
        ("$-5", -5),
        ("x = - 3", -3),
        ("10-7", 7),
        ("10 - 7", 7),
        ("12,345,678", 12345678),
        ("1,234.50", Fraction(2469, 2)),
        ("3, 4, 5", 5),
        ("1,23", 23),
        (".5", Fraction(1, 2)),
        ("the answer is 3.5.", Fraction(7, 2)),
        ("3/4", Fraction(3, 4)),
        ("-1/2", Fraction(-1, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("10/2 = 5", 5),
        ("2.5e3", 2500),
        ("25%", 25),
        ("25 % of 8 is 2", 2),
        (r"\boxed{\frac{3}{4}} or so, 9", Fraction(3, 4)),
        (r"-\frac{1}{2}", Fraction(-1, 2)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        (r"\$1{,}200", 1200),
        (r"it is \boxed{5", 5),
        ("2 + 2 = 5\n#### 4", 4),
        ("#### 1\n#### 2", 2),
        ("no number", None),
        ("", None),
        ("1/0", None),
        (r"\boxed{x} 7", None),
        ("9" * 5000, None),
    ],
)
def test_parse_number(text, wanted):
    assert parse_number(text) == wanted


@given(st.integers(-(10**15), 10**15))
def test_parse_number_reads_what_python_writes(value):
    assert parse_number(f"So it is {value:,}.") == value
    assert parse_number(f"#### {value}") == value


@given(st.decimals(-(10**6), 10**6, places=4))
def test_parse_number_reads_decimals_exactly(value):
    assert parse_number(f"{value:f}") == Fraction(value)


@given(st.integers(-999, 999), st.integers(1, 999))
def test_parse_number_reads_fractions(top, bottom):
    assert parse_number(f"the answer is {top}/{bottom}") == Fraction(top, bottom)


@given(st.text())
def test_parse_number_takes_any_text(text):
    assert parse_number(text) is None or isinstance(parse_number(text), Fraction)


def test_is_correct_compares_values():
    assert is_correct("it costs $2.50", "5/2")
    assert is_correct("zero, that is 0", "0")
    assert not is_correct("7", "-7")
    assert not is_correct("3.9", "3")
    assert not is_correct("no idea", "3")


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("7", "-7", 1),
        ("3.9", "3", 1),
        ("0", "0", 0),
        (".5", "0", 1),
        ("1,234", "234", 1),
        ("1234", "1,234", 0),
        ("#### 5 6 #### 7", "6", 1),
        ("", "1", 0),
        ("1", "none", 0),
        ("9" * 400, "9" * 400, 0),
    ],
)
def test_reference_mode_keeps_the_reference_faults(prediction, reference, right):
    assert score_maths([prediction], [reference], mode="reference") == [right]


def test_errors():
    with pytest.raises(UserError, match=r"Unknown maths mode 'numbers'.*Did you mean 'number'\?"):
        is_correct("1", "1", mode="numbers")
    with pytest.raises(UserError, match="'none' holds no number"):
        is_correct("1", "none")
    with pytest.raises(UserError, match="1 predictions but 2 references"):
        score_maths(["1"], ["1", "2"])
