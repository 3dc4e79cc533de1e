"""The page is self-contained, escaped and whole; the JSON holds the same numbers."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from megan_jax.errors import UserError
from megan_jax.evaluation.plots import HeatMap, LossCurve, heat_map
from megan_jax.evaluation.report import (
    Answer,
    ReportData,
    RunFacts,
    Sample,
    duration,
    render_report,
    write_report,
)
from megan_jax.evaluation.results import Accuracy, ExampleLosses, finding, result_rows

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that elements nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def losses(kind: str, gap: float, split: str) -> ExampleLosses:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 40, 30)
    base = rng.normal(3, 0.3, 30)
    other = base - 0.4 + rng.normal(0, 0.02, 30)
    accuracy = Accuracy(0.5, 0.25, 0.125, 8) if kind == "task" else None
    return ExampleLosses(
        kind, split, tokens, base * tokens, (base - 0.4 - gap) * tokens, other * tokens,
        base * tokens, accuracy,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data() -> ReportData:
    groups = [
        losses("task", 0.2, "seen"),
        losses("style", 0.1, "seen"),
        losses("style", 0, "unseen"),
    ]
    steps = np.arange(1, 31)
    return ReportData(
        title="A <test> & its title",
        facts=RunFacts(
            model="tiny", hypernetwork="shared, R = 8", trainable_parameters=250, steps=30,
            total_parameters=1000, train_tokens=12345, wall_seconds=598.4, matmul_gflops=61.0,
            peak_memory_gb=3.25, config={"train.steps": 30}, extra={"Seed": "7"},
        ),
        rows=result_rows(groups),
        summary=["One sentence."],
        curve=LossCurve(steps, 3 / np.sqrt(steps), [("matched", [1, 30], [3.0, 0.6])], base=2.0),
        heat_maps=[
            HeatMap("style", np.full((4, 2), 0.25), ["cost $5 and $x$", "人口 <b>"]),
            HeatMap("task", np.full((4, 1), -0.5), ["add"], "mean β", diverging=True),
        ],
        heat_caption="How to read it.",
        samples=[
            Sample(
                "style", "Say </p><script>alert(1)</script>", "Plain.",
                [Answer("as a pirate", "Arr\x00\ud800 & avast"), Answer(None, "Hm.", base="Hum.")],
                reference="Truth.",
            )
        ],
        commands=[("Chat", "megan generate --condition 'a \"b\" <c>'")],
        notes=["An open remark."],
    )  # fmt: skip


@pytest.fixture(scope="module")
def html(data) -> str:
    return render_report(data)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_page_is_self_contained(html, page):
    assert "script" not in page.tags
    for name, value in page.attributes:
        if name in {"src", "href", "xlink:href"}:
            assert value.startswith(("data:", "#")), value
        assert not name.startswith("on")
    assert not re.search(r"url\((?!#)|@import", html)


def test_page_tells_everything(data, page):
    wanted = [
        "A <test> & its title", "One sentence.", finding(data.rows).headline, "An open remark.",
        "seen conditions", "unseen conditions", "all types, pooled", "How to read it.",
        "no clear difference (interval contains 0)", "250 of 1,000 (25 %)", "12,345", "9 min 58 s",
        "61 GFLOP/s", "3.2 GB", "train.steps", "Seed", "cost $5 and $x$", "人口 <b>", "Truth.",
        "Say </p><script>alert(1)</script>", "as a pirate", "No condition", "Hum.",
        "megan generate --condition 'a \"b\" <c>'", "mismatched 25 %", "optimizer step",
    ]  # fmt: skip
    for text in wanted:
        assert text in page.text, text
    for row in data.rows:
        assert f"{row.matched:.3f}" in page.text
        assert f"{row.tokens:,} tokens" in page.text


def test_page_has_no_unwritable_characters(page):
    assert "Arr\ufffd" in page.text
    assert "\x00" not in page.text


def test_identifiers_are_unique_and_references_resolve(page):
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    used = [
        value[1:] for name, value in page.attributes if name == "xlink:href" and value[0] == "#"
    ]
    used += re.findall(r"url\(#([^)]+)\)", " ".join(value or "" for _, value in page.attributes))
    assert used and set(used) <= set(ids)


def test_figures_take_their_colours_from_the_page(html):
    assert "#01020" not in html
    css = html[html.index("<style>") : html.index("</style>")]
    defined = set(re.findall(r"(--[a-z-]+):", css))
    assert set(re.findall(r"var\((--[a-z-]+)\)", html)) <= defined


def test_same_data_same_page(data, html):
    assert render_report(data) == html


def test_a_page_of_facts_alone():
    text = Page(render_report(ReportData("T", RunFacts("tiny"), rows=[]))).text
    assert "Nothing was evaluated." in text and "Does the condition matter?" not in text


def test_maps_of_one_quantity_share_a_scale():
    small, large = np.full((2, 1), 0.1), np.full((2, 1), 1.0)

    def first_image(*values: np.ndarray) -> str:
        maps = [HeatMap("x", value, ["c"]) for value in values]
        return re.findall(r'href="(data:image/png[^"]+)"', heat_map(maps[0], maps, "m"))[0]

    assert first_image(small) == first_image(large)
    assert first_image(small, large) != first_image(large, large)


def test_misfitting_figures_are_named(data):
    with pytest.raises(
        UserError, match=r"Heat map 'x': the values have shape \(2, 3\).*\[layers, 1\]"
    ):
        render_report(replace(data, heat_maps=[HeatMap("x", np.zeros((2, 3)), ["one"])]))
    with pytest.raises(UserError, match="2 steps but 1 losses"):
        render_report(replace(data, curve=LossCurve([1, 2], [1.0])))


def test_values_that_are_not_finite_are_drawn_around(data):
    curve = LossCurve([1, 2, 3], [1.0, math.nan, 2.0])
    heat = HeatMap("x", np.array([[math.nan], [0.5]]), ["one"])
    Page(render_report(ReportData("T", data.facts, rows=[], curve=curve, heat_maps=[heat])))


def test_write_report_makes_the_folder_and_replaces(data, tmp_path):
    small = ReportData("First", data.facts, rows=[])
    path = tmp_path / "runs" / "x" / "report.html"
    assert write_report(path, small) == path
    write_report(path, replace(small, title="Second"))
    assert "Second" in path.read_text("utf-8")
    assert os.listdir(path.parent) == ["report.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    ("seconds", "words"), [(41.6, "42 s"), (598.4, "9 min 58 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds, words):
    assert duration(seconds) == words
