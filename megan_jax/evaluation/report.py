"""report.html: one self-contained page with the results of a run.

The page fetches nothing: styles and figures are inline, and a content policy forbids the rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from megan_jax.evaluation import plots
from megan_jax.evaluation.plots import HeatMap, LossCurve
from megan_jax.evaluation.results import (
    POOLED,
    ResultRow,
    finding,
    perplexity,
    signed,
    split_name,
)
from megan_jax.run_folder import user_errors, write_text


@dataclass(frozen=True)
class RunFacts:
    """What was run, on what, at what cost; what is None is left out of the page.

    train_tokens, eval_tokens: tokens that went through the model. wall_seconds: the whole run
        (None where it was interrupted and taken up again).
    matmul_gflops: measured on this machine, to judge the time by. peak_memory_gb: of the process.
    config: flat, key to value. extra: further facts by their label.
    """

    model: str
    hypernetwork: str = ""
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    steps: int | None = None
    train_tokens: int | None = None
    eval_tokens: int | None = None
    wall_seconds: float | None = None
    matmul_gflops: float | None = None
    peak_memory_gb: float | None = None
    device: str = ""
    date: str = ""
    git_revision: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The trained model's answer under one condition (None: no condition).

    base: what the base model answers with the same condition in its prompt, if that was asked.
    note: a few words on the condition, e.g. "matching", "unseen".
    """

    condition: str | None
    text: str
    base: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """One prompt, the base model's plain answer, and the trained model's under conditions."""

    condition_type: str
    prompt: str
    base: str
    answers: Sequence[Answer]
    reference: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything on the page, from top to bottom; empty parts are left out.

    summary: what the run was, in a few sentences. rows: from `results.result_rows`.
    heat_caption: how to read the maps. notes: open remarks on what does not hold, and why.
    commands: (what it does, the command), e.g. ("Chat with it", "./launch.sh chat").
    """

    title: str
    facts: RunFacts
    rows: Sequence[ResultRow]
    summary: Sequence[str] = ()
    curve: LossCurve | None = None
    heat_maps: Sequence[HeatMap] = ()
    heat_caption: str = ""
    samples: Sequence[Sample] = ()
    commands: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def duration(seconds: float) -> str:
    """Seconds in words: "42 s", "9 min 58 s", "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _fact_list(facts: RunFacts) -> list[tuple[str, str]]:
    def count(value: int | None) -> str:
        return "" if value is None else f"{value:,}"

    trainable = count(facts.trainable_parameters)
    if facts.trainable_parameters is not None and facts.total_parameters:
        share = 100 * facts.trainable_parameters / facts.total_parameters
        trainable += f" of {facts.total_parameters:,} ({share:.2g} %)"
    seconds, gflops, memory = facts.wall_seconds, facts.matmul_gflops, facts.peak_memory_gb
    pairs = [
        ("Model", facts.model),
        ("Hypernetwork", facts.hypernetwork),
        ("Trained parameters", trainable),
        ("Optimizer steps", count(facts.steps)),
        ("Training tokens", count(facts.train_tokens)),
        ("Evaluation tokens", count(facts.eval_tokens)),
        ("Time", "" if seconds is None else duration(seconds)),
        ("Measured matmul", "" if gflops is None else f"{gflops:,.0f} GFLOP/s"),
        ("Peak memory", "" if memory is None else f"{memory:.1f} GB"),
        ("Device", facts.device),
        ("Date", facts.date),
        ("Code revision", facts.git_revision),
        *facts.extra.items(),
    ]
    return [(name, value) for name, value in pairs if value]


def _figures(data: ReportData) -> dict[str, Any]:
    def both(draw: Any, *arguments: Any, name: str) -> list[tuple[str, Markup]]:
        return [
            (kind, Markup(draw(*arguments, f"{name}-{kind}", width)))
            for kind, width in (("wide", plots.WIDE), ("narrow", plots.NARROW))
        ]

    compared = any(row.difference is not None for row in data.rows)
    return {
        "curve": both(plots.loss_curve, data.curve, name="loss") if data.curve else None,
        "differences": both(plots.differences, data.rows, name="gap") if compared else None,
        "maps": [
            (heat, both(plots.heat_map, heat, data.heat_maps, name=f"map{index}"))
            for index, heat in enumerate(data.heat_maps)
        ],
    }


def _clean(value: object) -> object:
    """Texts without the control characters and lone surrogates that a page must not hold."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "".join(
            char if char in "\n\t" or (ord(char) >= 32 and ord(char) != 127) else "\ufffd"
            for char in value.replace("\r\n", "\n")
        )
    return value


def render_report(data: ReportData) -> str:
    """The page as a string. Raises `UserError` where figures and labels do not fit."""
    templates = resources.files("megan_jax.evaluation") / "templates"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.filters |= {
        "loss": lambda value: "–" if value is None else f"{value:.3f}",
        "percent": lambda value: "–" if value is None else f"{100 * value:.0f} %",
        "signed": signed,
        "split_name": split_name,
        "perplexity": lambda value: f"{perplexity(value):.2f}",
    }
    template = environment.from_string((templates / "report.html.j2").read_text("utf-8"))
    return template.render(
        data=data,
        css=Markup((templates / "report.css").read_text("utf-8")),
        facts=_fact_list(data.facts),
        finding=finding(data.rows),
        figures=_figures(data),
        pooled=POOLED,
    )


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Writes the page to `path`, whole or not at all, and returns the path.

    Raises `UserError` where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    with user_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render_report(data))
    return path
