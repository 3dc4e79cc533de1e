"""Tasks on lists of numbers."""

from __future__ import annotations

from megan_jax.data.suite.task_forms import (
    TaskSpec,
    candidates,
    filtered,
    joined,
    listed,
    numbers,
    signed_terms,
    sorted_numbers,
    when,
)

_SMALL_LIST = {"min_numbers": 3, "max_numbers": 6, "max_decimals": 0}

LISTS: tuple[TaskSpec, ...] = (
    TaskSpec(
        "number_sorting/ascending",
        "number_sorting",
        when("direction", "ascending", numbers),
        (
            "Sort the numbers in ascending order.",
            "Arrange the numbers from the smallest to the largest.",
            "List the numbers with the lowest first.",
            "Put the values into increasing order.",
        ),
        _SMALL_LIST,
        answer=sorted_numbers,
    ),
    TaskSpec(
        "number_sorting/descending",
        "number_sorting",
        when("direction", "descending", numbers),
        (
            "Sort the numbers in descending order.",
            "Arrange the numbers from the largest to the smallest.",
            "List the numbers with the highest first.",
            "Put the values into decreasing order.",
        ),
        _SMALL_LIST,
        answer=sorted_numbers,
    ),
    TaskSpec(
        "number_filtering/above",
        "number_filtering",
        filtered("keep_larger", "remove_smaller"),
        (
            "Keep only the numbers that are larger than the one after the bar.",
            "Remove every number below the threshold given last.",
            "List the numbers above the limit.",
            "Drop the small ones: what exceeds the value after the bar?",
        ),
        _SMALL_LIST,
        answer=listed,
    ),
    TaskSpec(
        "number_filtering/below",
        "number_filtering",
        filtered("keep_smaller", "remove_larger"),
        (
            "Keep only the numbers that are smaller than the one after the bar.",
            "Remove every number above the threshold given last.",
            "List the numbers below the limit.",
            "Drop the large ones: what falls short of the value after the bar?",
        ),
        _SMALL_LIST,
        answer=listed,
    ),
    TaskSpec(
        "number_format/largest",
        "number_format",
        candidates("largest"),
        (
            "Pick the largest of the numbers.",
            "Which number is the greatest? Write it without separators.",
            "Give the maximum of the list.",
            "Find the highest value.",
        ),
        {"min_num_candidates": 2, "max_num_candidates": 3, "max_n": 100000},
    ),
    TaskSpec(
        "number_format/smallest",
        "number_format",
        candidates("smallest"),
        (
            "Pick the smallest of the numbers.",
            "Which number is the least? Write it without separators.",
            "Give the minimum of the list.",
            "Find the lowest value.",
        ),
        {"min_num_candidates": 2, "max_num_candidates": 3, "max_n": 100000},
    ),
    TaskSpec(
        "number_sequence",
        "number_sequence",
        lambda e: ", ".join(map(str, e["metadata"]["sequence"][:-1])),
        (
            "Continue the sequence with the next number.",
            "Find the rule of the series and give its next term.",
            "What number comes next?",
            "Extend the pattern by one number.",
        ),
        {"min_terms": 4, "max_terms": 6, "max_complexity": 2},
    ),
    TaskSpec(
        "gcd",
        "gcd",
        joined("numbers"),
        (
            "Find the greatest common divisor.",
            "Give the largest number that divides both.",
            "Compute the GCD of the numbers.",
            "What is their highest common factor?",
        ),
        {"max_value": 100},
    ),
    TaskSpec(
        "lcm",
        "lcm",
        joined("numbers"),
        (
            "Find the least common multiple.",
            "Give the smallest number that both divide.",
            "Compute the LCM of the numbers.",
            "What is their lowest common multiple?",
        ),
        {"max_value": 30},
    ),
    TaskSpec(
        "products",
        "products",
        lambda e: e["metadata"]["expression"].replace(" * ", ", "),
        (
            "Multiply the numbers.",
            "Give the product.",
            "What do you get when you multiply them?",
            "Compute one number times the other.",
        ),
        {"max_digits": 2},
    ),
    TaskSpec(
        "chain_sum",
        "chain_sum",
        signed_terms,
        (
            "Add up the numbers, minding their signs.",
            "Give the sum.",
            "What is the total?",
            "Compute the sum of the list.",
        ),
        {"max_terms": 4, "max_digits": 2},
    ),
    TaskSpec(
        "decimal_chain_sum",
        "decimal_chain_sum",
        signed_terms,
        (
            "Add up the decimal numbers, minding their signs.",
            "Give the sum of these decimal fractions.",
            "What do the decimals come to altogether?",
            "Compute the total of the decimal numbers.",
        ),
        {"max_terms": 3, "max_digits": 2, "max_decimal_places": 2},
    ),
    TaskSpec(
        "count_primes",
        "count_primes",
        lambda e: f"{e['metadata']['start']}, {e['metadata']['end']}",
        (
            "Count the prime numbers from the first number to the second.",
            "How many primes lie in the range, its ends included?",
            "Give the number of primes between the two.",
            "Say how many numbers of the interval are prime.",
        ),
        {"max_n": 100},
    ),
    TaskSpec(
        "coin_flip/exact",
        "coin_flip",
        when(
            "problem_type",
            "exact",
            lambda e: f"{e['metadata']['k_heads']}, {e['metadata']['num_trials']}",
        ),
        (
            "The chance of exactly so many heads (first number) in so many coin flips (second).",
            "Probability of the first number of heads when a fair coin is tossed as often as the"
            " second says.",
            "Compute the binomial probability of exactly k heads in n fair flips, given k, n.",
            "How likely is it to get just that many heads in that many tosses?",
        ),
        {"max_trials": 18},
    ),
    TaskSpec(
        "simple_geometry",
        "simple_geometry",
        lambda e: ", ".join(f"{angle:g}" for angle in e["metadata"]["known_angles"]),
        (
            "All inner angles of a polygon but one are given in degrees; find the last one.",
            "What is the remaining interior angle of the polygon?",
            "Compute the missing angle from the angle sum of a polygon.",
            "Complete the interior angles of the figure.",
        ),
        {"max_sides": 4},
    ),
    TaskSpec(
        "puzzle24",
        "puzzle24",
        joined("numbers"),
        (
            "Make 24 out of the numbers with +, -, * and /.",
            "Write an expression that uses each number once and equals 24.",
            "Solve the 24 game.",
            "Combine the four numbers into twenty-four.",
        ),
    ),
    TaskSpec(
        "countdown",
        "countdown",
        lambda e: f"{', '.join(map(str, e['metadata']['numbers']))} | {e['metadata']['target']}",
        (
            "Write an expression of the numbers that equals the target after the bar.",
            "Reach the target with the numbers and the four operations.",
            "Combine the numbers arithmetically into the last one.",
            "Solve the countdown puzzle: which calculation gives the target?",
        ),
        {"min_numbers": 3, "max_numbers": 3, "max_value": 20, "min_target": 10, "max_target": 99},
    ),
)
