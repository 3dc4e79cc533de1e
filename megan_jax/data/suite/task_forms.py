"""How the suite's tasks are described: `TaskSpec`, and functions that make bare prompts.

A prompt holds the operands only, so that many tasks share a form (a list of numbers, a word, two
strings) and nothing but the condition tells which one is wanted.
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


def meta(name: str) -> Callable[[Entry], str]:
    return lambda entry: str(entry["metadata"][name])


def joined(name: str) -> Callable[[Entry], str]:
    return lambda entry: ", ".join(map(str, entry["metadata"][name]))


def when(name: str, value: str, prompt: Callable[[Entry], str]) -> Callable[[Entry], str | None]:
    """The prompt of the entries whose metadata `name` is `value`; None for the others."""
    return lambda entry: prompt(entry) if str(entry["metadata"][name]) == value else None


def found(pattern: str, form: str = "{0}") -> Callable[[Entry], str | None]:
    """What the pattern's groups match in the generator's question."""

    def prompt(entry: Entry) -> str | None:
        match = re.search(pattern, entry["question"], flags=re.DOTALL)
        return form.format(*match.groups()).strip() if match else None

    return prompt


def listed(entry: Entry) -> str:
    """A printed list of numbers as plain text."""
    return ", ".join(ast.literal_eval(str(entry["answer"]))) or "none"


def signed_terms(entry: Entry) -> str:
    """The terms of a sum with their signs: 4 - 1 + 7 is "4, -1, 7"."""
    expression = entry["metadata"]["expression"].replace("- ", "-").replace("+ ", "")
    return ", ".join(expression.split())


def matrix(entry: Entry) -> str:
    return " / ".join(" ".join(map(str, row)) for row in entry["metadata"]["matrix"])


def rows(entry: Entry) -> str:
    return " / ".join(str(entry["answer"]).split("\n"))


def complex_number(name: str) -> Callable[[Entry], str]:
    """A complex number of the metadata, with whole parts: 3 - 2i."""

    def text(entry: Entry) -> str:
        real, imaginary = (int(part) for part in entry["metadata"][name])
        return f"{real} {'-' if imaginary < 0 else '+'} {abs(imaginary)}i"

    return text


def complex_pair(entry: Entry) -> str:
    return f"{complex_number('num1')(entry)}, {complex_number('num2')(entry)}"


def corners(entry: Entry) -> str:
    return ", ".join(f"({', '.join(entry['metadata'][corner])})" for corner in "ABC")


def kinship(entry: Entry) -> str | None:
    # The generator turns relations by marriage the wrong way round.
    if str(entry["answer"]).endswith("-in-law"):
        return None
    facts = entry["question"].split("\n")[0].strip()
    return f"{facts} {entry['metadata']['person1']}, {entry['metadata']['person2']}"


def sentence(entry: Entry) -> str | None:
    answer = str(entry["answer"])
    if not re.fullmatch(r"[A-Z][a-z]*[^\"“”_]*(?<!Mr)[.!?]", answer):
        return None
    return found(r"sentence: (.*)$")(entry)


def inserted(entry: Entry) -> str | None:
    """The string, if anything is to be inserted into it."""
    string = entry["metadata"]["string"]
    return string if string != str(entry["answer"]) else None


def candidates(size: str) -> Callable[[Entry], str | None]:
    def prompt(entry: Entry) -> str | None:
        # Some answers of the generator carry rounding noise.
        if entry["metadata"]["size"] != size or len(str(entry["answer"]).split(".")[-1]) > 3:
            return None
        return ", ".join(entry["metadata"]["formatted_candidates"])

    return prompt


def numbers(entry: Entry) -> str:
    return ", ".join(f"{float(number):g}" for number in entry["metadata"]["original_numbers"])


def sorted_numbers(entry: Entry) -> str:
    return ", ".join(f"{float(number):g}" for number in ast.literal_eval(str(entry["answer"])))


def filtered(kept: str, removed: str) -> Callable[[Entry], str | None]:
    def prompt(entry: Entry) -> str | None:
        meta = entry["metadata"]
        if meta["operation"] not in (kept, removed):
            return None
        return f"{', '.join(meta['original_numbers'])} | {meta['filter_value']}"

    return prompt
