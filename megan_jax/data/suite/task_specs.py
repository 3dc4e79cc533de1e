"""The tasks of the suite: for each, a reasoning-gym generator, a bare prompt and descriptions.

A prompt holds the operands only, so that many tasks share a form (a list of numbers, a word, two
strings) and nothing but the condition tells which one is wanted. This file needs no reasoning-gym;
`make_tasks` does, to write the rows that are committed beside it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Entry = dict[str, Any]
BOOLEANS = ("True", "False")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
      name: its key.
      generator: the name of the reasoning-gym data set.
      prompt: makes the prompt from an entry of it; None leaves the entry out.
      wordings: descriptions of the task, the conditions.
      config: the generator's settings.
      answer: makes the answer from an entry.
      options: the closed set of answers, if there is one.
    """

    name: str
    generator: str
    prompt: Callable[[Entry], str | None]
    wordings: tuple[str, ...]
    config: dict[str, Any] = field(default_factory=dict)
    answer: Callable[[Entry], str] = lambda entry: str(entry["answer"])
    options: tuple[str, ...] = ()


def _meta(name: str) -> Callable[[Entry], str]:
    return lambda entry: str(entry["metadata"][name])


def _joined(name: str) -> Callable[[Entry], str]:
    return lambda entry: ", ".join(map(str, entry["metadata"][name]))


def _when(name: str, value: str, prompt: Callable[[Entry], str]) -> Callable[[Entry], str | None]:
    """The prompt of the entries whose metadata `name` is `value`; None for the others."""
    return lambda entry: prompt(entry) if str(entry["metadata"][name]) == value else None


def _found(pattern: str, form: str = "{0}") -> Callable[[Entry], str | None]:
    """What the pattern's groups match in the generator's question."""

    def prompt(entry: Entry) -> str | None:
        match = re.search(pattern, entry["question"], flags=re.DOTALL)
        return form.format(*match.groups()).strip() if match else None

    return prompt


def _listed(entry: Entry) -> str:
    """A printed list of numbers as plain text."""
    return ", ".join(ast.literal_eval(str(entry["answer"]))) or "none"


def _signed_terms(entry: Entry) -> str:
    """The terms of a sum with their signs: 4 - 1 + 7 is "4, -1, 7"."""
    expression = entry["metadata"]["expression"].replace("- ", "-").replace("+ ", "")
    return ", ".join(expression.split())


def _matrix(entry: Entry) -> str:
    return " / ".join(" ".join(map(str, row)) for row in entry["metadata"]["matrix"])


def _rows(entry: Entry) -> str:
    return " / ".join(str(entry["answer"]).split("\n"))


def _complex(entry: Entry) -> str:
    def number(pair: Any) -> str:
        real, imaginary = (int(part) for part in pair)
        return f"{real} {'-' if imaginary < 0 else '+'} {abs(imaginary)}i"

    return f"{number(entry['metadata']['num1'])}, {number(entry['metadata']['num2'])}"


def _plain_complex(entry: Entry) -> str:
    return str(entry["answer"]).replace(".0", "")


def _corners(entry: Entry) -> str:
    return ", ".join(f"({', '.join(entry['metadata'][corner])})" for corner in "ABC")


def _kinship(entry: Entry) -> str | None:
    # The generator turns relations by marriage the wrong way round.
    if str(entry["answer"]).endswith("-in-law"):
        return None
    facts = entry["question"].split("\n")[0].strip()
    return f"{facts} {entry['metadata']['person1']}, {entry['metadata']['person2']}"


def _sentence(entry: Entry) -> str | None:
    answer = str(entry["answer"])
    if not re.fullmatch(r"[A-Z][a-z]*[^\"“”_]*(?<!Mr)[.!?]", answer):
        return None
    return _found(r"sentence: (.*)$")(entry)


def _inserted(entry: Entry) -> str | None:
    """The string, if anything is to be inserted into it."""
    string = entry["metadata"]["string"]
    return string if string != str(entry["answer"]) else None


def _candidates(size: str) -> Callable[[Entry], str | None]:
    def prompt(entry: Entry) -> str | None:
        # Some answers of the generator carry rounding noise.
        if entry["metadata"]["size"] != size or len(str(entry["answer"]).split(".")[-1]) > 3:
            return None
        return ", ".join(entry["metadata"]["formatted_candidates"])

    return prompt


def _numbers(entry: Entry) -> str:
    return ", ".join(f"{float(number):g}" for number in entry["metadata"]["original_numbers"])


def _sorted_numbers(entry: Entry) -> str:
    return ", ".join(f"{float(number):g}" for number in ast.literal_eval(str(entry["answer"])))


def _filtered(kept: str, removed: str) -> Callable[[Entry], str | None]:
    def prompt(entry: Entry) -> str | None:
        meta = entry["metadata"]
        if meta["operation"] not in (kept, removed):
            return None
        return f"{', '.join(meta['original_numbers'])} | {meta['filter_value']}"

    return prompt


_SMALL_LIST = {"min_numbers": 3, "max_numbers": 6, "max_decimals": 0}
_COMPLEX = {"operations_weights": [0.4, 0.3, 0.3, 0.0]}
_GEOMETRY = {"min_coord": -5, "max_coord": 5}

SPECS: tuple[TaskSpec, ...] = (
    # --- words
    TaskSpec(
        "spell_backward",
        "spell_backward",
        _meta("word"),
        (
            "Write the word backwards, letter by letter.",
            "Reverse the order of the letters.",
            "Spell it from the last letter to the first.",
            "Give the mirror image of the word.",
        ),
    ),
    TaskSpec(
        "word_sorting/ascending",
        "word_sorting",
        _when("direction", "ascending", _joined("original_words")),
        (
            "Sort the words in ascending order, capital letters first.",
            "Arrange the words from A to Z, capitals before small letters.",
            "Put the list into alphabetical order (ASCII).",
            "Order the words alphabetically.",
        ),
        {"min_words": 3, "max_words": 5, "max_word_length": 9},
    ),
    TaskSpec(
        "word_sorting/descending",
        "word_sorting",
        _when("direction", "descending", _joined("original_words")),
        (
            "Sort the words in descending order, small letters first.",
            "Arrange the words from Z to A, small letters before capitals.",
            "Put the list into reverse alphabetical order (ASCII).",
            "Order the words backwards through the alphabet.",
        ),
        {"min_words": 3, "max_words": 5, "max_word_length": 9},
    ),
    TaskSpec(
        "word_sequence_reversal",
        "word_sequence_reversal",
        _joined("words"),
        (
            "Reverse the order of the words in the list.",
            "Repeat the words, the last one first.",
            "Turn the list around; keep every word as it is.",
            "List the same words from the end to the beginning.",
        ),
        {"min_words": 3, "max_words": 5},
    ),
    TaskSpec(
        "letter_counting",
        "letter_counting",
        lambda e: f"{' '.join(e['metadata']['span'])} | {e['metadata']['target_letter']}",
        (
            "Count how many times the letter after the bar occurs in the text.",
            "How often does the given letter appear? Answer with a number.",
            "Give the number of occurrences of the letter.",
            "Tally the letter in the phrase before it.",
        ),
        {"min_words": 3, "max_words": 6},
    ),
    TaskSpec(
        "letter_jumble",
        "letter_jumble",
        _joined("scrambled_words"),
        (
            "Unscramble the letters of every word.",
            "The letters inside the words are mixed up; put them right.",
            "Restore the original words from their anagrams.",
            "Solve the jumbles.",
        ),
        {"min_words": 1, "max_words": 3, "min_word_len": 4, "max_word_len": 8},
    ),
    TaskSpec(
        "sentence_reordering",
        "sentence_reordering",
        _sentence,
        (
            "Put the words into the order of a correct sentence.",
            "The words of a sentence are shuffled; restore it.",
            "Rearrange the words so that they make sense.",
            "Form a sentence out of these words.",
        ),
        {"min_words_in_sentence": 3, "max_words_in_sentence": 8},
    ),
    TaskSpec(
        "caesar_cipher",
        "caesar_cipher",
        _meta("cipher_text"),
        (
            "Decrypt the Caesar cipher, in which every letter is shifted by three.",
            "Every letter was moved three places on; move it back.",
            "Decode the text by shifting each letter back by 3.",
            "Undo a shift cipher of 3.",
        ),
        {"min_words": 2, "max_words": 7, "min_rotation": 3, "max_rotation": 3},
    ),
    TaskSpec(
        "palindrome_generation",
        "palindrome_generation",
        _joined("letters"),
        (
            "Make a palindrome out of all the letters.",
            "Arrange the letters so that they read the same in both directions.",
            "Form a string that equals its own reverse.",
            "Use every letter to build a symmetrical string.",
        ),
        {"min_length": 3, "max_length": 7},
    ),
    TaskSpec(
        "string_insertion",
        "string_insertion",
        _inserted,
        (
            "Insert A after ABCD, B after BCDE, C after CDEA, D after DEAB and E after EABC.",
            "After every run ABCD, BCDE, CDEA, DEAB or EABC insert its first letter.",
            "Copy the string, adding A behind ABCD, B behind BCDE, and so on in the cycle.",
            "Where four letters follow one another in the cycle ABCDE, repeat the first of them.",
        ),
        {"min_string_length": 5, "max_string_length": 14},
    ),
    # --- lists of numbers
    TaskSpec(
        "number_sorting/ascending",
        "number_sorting",
        _when("direction", "ascending", _numbers),
        (
            "Sort the numbers in ascending order.",
            "Arrange the numbers from the smallest to the largest.",
            "List the numbers with the lowest first.",
            "Put the values into increasing order.",
        ),
        _SMALL_LIST,
        answer=_sorted_numbers,
    ),
    TaskSpec(
        "number_sorting/descending",
        "number_sorting",
        _when("direction", "descending", _numbers),
        (
            "Sort the numbers in descending order.",
            "Arrange the numbers from the largest to the smallest.",
            "List the numbers with the highest first.",
            "Put the values into decreasing order.",
        ),
        _SMALL_LIST,
        answer=_sorted_numbers,
    ),
    TaskSpec(
        "number_filtering/above",
        "number_filtering",
        _filtered("keep_larger", "remove_smaller"),
        (
            "Keep only the numbers that are larger than the one after the bar.",
            "Remove every number below the threshold given last.",
            "List the numbers above the limit.",
            "Drop the small ones: what exceeds the value after the bar?",
        ),
        _SMALL_LIST,
        answer=_listed,
    ),
    TaskSpec(
        "number_filtering/below",
        "number_filtering",
        _filtered("keep_smaller", "remove_larger"),
        (
            "Keep only the numbers that are smaller than the one after the bar.",
            "Remove every number above the threshold given last.",
            "List the numbers below the limit.",
            "Drop the large ones: what falls short of the value after the bar?",
        ),
        _SMALL_LIST,
        answer=_listed,
    ),
    TaskSpec(
        "number_format/largest",
        "number_format",
        _candidates("largest"),
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
        _candidates("smallest"),
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
        _joined("numbers"),
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
        _joined("numbers"),
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
        _signed_terms,
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
        _signed_terms,
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
        _when(
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
        _joined("numbers"),
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
    # --- one number
    TaskSpec(
        "count_bits",
        "count_bits",
        _meta("number"),
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
        _meta("number"),
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
        _meta("year"),
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
        _meta("target_date"),
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
    # --- expressions
    TaskSpec(
        "basic_arithmetic",
        "basic_arithmetic",
        _meta("expression"),
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
        _meta("equation"),
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
        _meta("integrand"),
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
        _meta("problem"),
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
        _when("operation", "+", _complex),
        (
            "Add the two complex numbers.",
            "Give the sum of the complex numbers.",
            "Compute first plus second, real and imaginary parts apart.",
            "What do the complex numbers make together?",
        ),
        _COMPLEX,
        answer=_plain_complex,
    ),
    TaskSpec(
        "complex_arithmetic/subtract",
        "complex_arithmetic",
        _when("operation", "-", _complex),
        (
            "Subtract the second complex number from the first.",
            "Give the difference of the complex numbers.",
            "Compute first minus second, real and imaginary parts apart.",
            "Take the second complex number away.",
        ),
        _COMPLEX,
        answer=_plain_complex,
    ),
    TaskSpec(
        "complex_arithmetic/multiply",
        "complex_arithmetic",
        _when("operation", "*", _complex),
        (
            "Multiply the two complex numbers.",
            "Give the product of the complex numbers.",
            "Compute first times second, with i squared = -1.",
            "What is one complex number times the other?",
        ),
        _COMPLEX,
        answer=_plain_complex,
    ),
    # --- points, grids, dice and dates
    TaskSpec(
        "advanced_geometry/angle",
        "advanced_geometry",
        _corners,
        (
            "The points are A, B and C of a triangle: give the angle at B in degrees.",
            "Measure the angle ABC.",
            "How many degrees has the triangle's second corner?",
            "Compute the angle between BA and BC.",
        ),
        {**_GEOMETRY, "task_types": ["angle_measure"]},
    ),
    TaskSpec(
        "advanced_geometry/orthocenter",
        "advanced_geometry",
        _corners,
        (
            "Find the orthocenter of the triangle with these corners.",
            "Where do the triangle's altitudes meet?",
            "Give the coordinates of the intersection of the heights.",
            "Compute the point that all three altitudes share.",
        ),
        {**_GEOMETRY, "task_types": ["orthocenter"]},
    ),
    TaskSpec(
        "advanced_geometry/incircle_radius",
        "advanced_geometry",
        _corners,
        (
            "Find the radius of the incircle of the triangle with these corners.",
            "How large is the circle that touches all three sides?",
            "Give the inradius of the triangle.",
            "Compute area over half the perimeter.",
        ),
        {**_GEOMETRY, "task_types": ["incircle_radius"]},
    ),
    TaskSpec(
        "spiral_matrix",
        "spiral_matrix",
        _matrix,
        (
            "Read the matrix in a clockwise spiral from the top left.",
            "List the entries along a spiral that winds inwards.",
            "Go round the grid clockwise to its centre and write what you meet.",
            "Unroll the matrix spirally.",
        ),
        {"min_n": 2, "max_n": 3},
    ),
    TaskSpec(
        "rotate_matrix",
        "rotate_matrix",
        _matrix,
        (
            "Rotate the matrix clockwise by 90 degrees.",
            "Turn the grid a quarter to the right.",
            "The first column, read upwards, becomes the first row; and so on.",
            "Give the matrix after one clockwise quarter turn.",
        ),
        {"min_n": 2, "max_n": 3, "min_rotations": 1, "max_rotations": 1},
        answer=_rows,
    ),
    TaskSpec(
        "pool_matrix/max",
        "pool_matrix",
        _when("pool_type", "max", _matrix),
        (
            "Max-pool the matrix with blocks of two by two.",
            "Replace each 2×2 block by its largest entry.",
            "Take the maximum over blocks of size two.",
            "Downsample the grid by keeping the greatest value of every block.",
        ),
        {"max_rows": 3, "max_cols": 3, "min_pool_size": 2, "max_pool_size": 2},
        answer=_rows,
    ),
    TaskSpec(
        "binary_alternation",
        "binary_alternation",
        _meta("string"),
        (
            "The fewest swaps that make the bits alternate, or -1.",
            "How many swaps of two characters turn it into 0101... or 1010...?",
            "Count the swaps needed until no neighbours are equal; -1 if it can't be done.",
            "Minimum number of exchanges for an alternating string.",
        ),
        {"min_n": 5, "max_n": 10},
    ),
    TaskSpec(
        "dice",
        "dice",
        _found(r"dice: ([^.]*)\. .*rolling (\d+) or higher", "{0} | {1}"),
        (
            "The chance, as a fraction, that the dice show at least the number after the bar.",
            "Probability of rolling that total or more with these dice.",
            "Give the odds of reaching the target with one throw of all dice.",
            "How likely is a sum that isn't below the last number? Answer with a fraction.",
        ),
        {"num_dice": 3, "max_dice_size": 12},
    ),
    TaskSpec(
        "time_intervals",
        "time_intervals",
        # The dates before the clock times are those of the day on which the rows were made.
        lambda e: ", ".join(str(e["metadata"][end])[11:19] for end in ("start_time", "end_time")),
        (
            "How much time passes from the first time to the second?",
            "Give the duration between the two clock times as HH:MM:SS.",
            "Subtract the start from the end.",
            "Compute the elapsed time.",
        ),
        {"task_types": ["time_seconds"]},
    ),
    TaskSpec(
        "leg_counting",
        "leg_counting",
        _found(r"if you have (.*)\?"),
        (
            "Count all the legs of the animals.",
            "How many legs are there in total?",
            "Add up the legs.",
            "Give the number of legs, every animal counted.",
        ),
        {"min_animals": 2, "max_animals": 3, "max_instances": 6},
    ),
    TaskSpec(
        "family_relationships",
        "family_relationships",
        _kinship,
        (
            "Name what the first of the two people at the end is to the second.",
            "How is the person named last but one related to the last?",
            "Give the word for their kinship.",
            "State the family relationship of the final pair.",
        ),
        {"min_family_size": 4, "max_family_size": 4},
    ),
    TaskSpec(
        "course_schedule",
        "course_schedule",
        _found(r"take course a_i:\n\[(.*?)\]"),
        (
            "Each pair (a, b) says that b comes before a: can all be done? True or False.",
            "Are the prerequisites free of cycles? Answer True or False.",
            "Say True if there is an order that respects every pair.",
            "Check whether every course can be finished.",
        ),
        {
            "min_num_courses": 3,
            "max_num_courses": 5,
            "max_num_prerequisites": 1,
            "max_cycle_length": 3,
        },
        options=BOOLEANS,
    ),
)
