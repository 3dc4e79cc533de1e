"""Tasks on single numbers and on expressions."""

from __future__ import annotations

from megan_jax.data.suite.task_forms import (
    DAYS,
    TaskSpec,
    complex_number,
    complex_pair,
    meta,
    when,
)

_COMPLEX = {"operations_weights": [0.4, 0.3, 0.3, 0.0]}

SUMS: tuple[TaskSpec, ...] = (
    TaskSpec(
        "count_bits",
        "count_bits",
        meta("number"),
        (
            "Count the ones in the binary form of the number.",
            "How many 1 bits does the number have?",
            "Give the population count of its bits.",
            "Write it in binary and count the ones.",
        ),
        {"max_n": 1000},
    ),
    TaskSpec(
        "prime_factorization",
        "prime_factorization",
        meta("number"),
        (
            "Factor the number into primes.",
            "Write the number as a product of primes, joined by ×.",
            "Give its prime factorization.",
            "Which primes multiply to it?",
        ),
        {"max_value": 300},
    ),
    TaskSpec(
        "calendar_arithmetic/is_leap_year",
        "calendar_arithmetic",
        meta("year"),
        (
            "Is the year a leap year? Answer Yes or No.",
            "Say Yes if February has 29 days in that year.",
            "Check whether the year has 366 days. Yes or No.",
            "Decide if it is a leap year.",
        ),
        {"tasks": ["is_leap_year"]},
        options=("Yes", "No"),
    ),
    TaskSpec(
        "calendar_arithmetic/weekday",
        "calendar_arithmetic",
        meta("target_date"),
        (
            "Name the day of the week of the date.",
            "Which weekday is it?",
            "Say whether the date is a Monday, a Tuesday, and so on.",
            "Give the weekday's name.",
        ),
        {"tasks": ["weekday_of_date"]},
        options=DAYS,
    ),
    TaskSpec(
        "base_conversion",
        "base_conversion",
        lambda e: "{source_repr}, {source_base}, {target_base}".format(**e["metadata"]),
        (
            "Convert the number from the first base to the second.",
            "Write the number, given in the base named next, in the base named last.",
            "Change the base of the number, as the two bases after it say.",
            "Give the number in the other numeral system.",
        ),
        {"max_base": 10, "max_value": 200},
    ),
    TaskSpec(
        "basic_arithmetic",
        "basic_arithmetic",
        meta("expression"),
        (
            "Calculate the value of the expression.",
            "Evaluate the expression.",
            "What is the result of this calculation?",
            "Work it out and give the number.",
        ),
        {"max_terms": 3, "max_digits": 2},
    ),
    TaskSpec(
        "fraction_simplification",
        "fraction_simplification",
        lambda e: "{numerator}/{denominator}".format(**e["metadata"]),
        (
            "Reduce the fraction to its lowest terms.",
            "Simplify the fraction.",
            "Cancel the common factors.",
            "Write the fraction with the smallest possible numbers.",
        ),
        {"max_value": 50, "max_factor": 12, "styles": ("plain",)},
    ),
    TaskSpec(
        "simple_equations",
        "simple_equations",
        meta("equation"),
        (
            "Solve the equation for its variable.",
            "Find the value of the unknown.",
            "Which number makes the equation true?",
            "Give the solution of the linear equation.",
        ),
        {"max_terms": 3, "max_value": 20},
    ),
    TaskSpec(
        "simple_integration",
        "simple_integration",
        meta("integrand"),
        (
            "Give the indefinite integral.",
            "Find the antiderivative, with + C.",
            "Integrate the function.",
            "Which function has this derivative?",
        ),
        {"max_terms": 2, "max_degree": 5},
    ),
    TaskSpec(
        "bitwise_arithmetic",
        "bitwise_arithmetic",
        meta("problem"),
        (
            "Evaluate the hexadecimal expression, with shifts, in hexadecimal.",
            "Compute the result as a hex number.",
            "Work out the bitwise arithmetic and answer in base 16.",
            "Give the expression's value, beginning with 0x.",
        ),
        {"difficulty": 1},
    ),
    TaskSpec(
        "complex_arithmetic/add",
        "complex_arithmetic",
        when("operation", "+", complex_pair),
        (
            "Add the two complex numbers.",
            "Give the sum of the complex numbers.",
            "Compute first plus second, real and imaginary parts apart.",
            "What do the complex numbers make together?",
        ),
        _COMPLEX,
        answer=complex_number("result"),
    ),
    TaskSpec(
        "complex_arithmetic/subtract",
        "complex_arithmetic",
        when("operation", "-", complex_pair),
        (
            "Subtract the second complex number from the first.",
            "Give the difference of the complex numbers.",
            "Compute first minus second, real and imaginary parts apart.",
            "Take the second complex number away.",
        ),
        _COMPLEX,
        answer=complex_number("result"),
    ),
    TaskSpec(
        "complex_arithmetic/multiply",
        "complex_arithmetic",
        when("operation", "*", complex_pair),
        (
            "Multiply the two complex numbers.",
            "Give the product of the complex numbers.",
            "Compute first times second, with i squared = -1.",
            "What is one complex number times the other?",
        ),
        _COMPLEX,
        answer=complex_number("result"),
    ),
)
