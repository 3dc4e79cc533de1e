"""The report's figures as inline SVG whose colours follow the page (light or dark).

Matplotlib draws with placeholder colours; `_finish` turns these into CSS variables, so that one
drawing serves both colour schemes, and takes out what an inline SVG must not carry.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from megan_jax.errors import UserError
from megan_jax.evaluation.results import POOLED, ResultRow

# Placeholder colours; none occurs in a colour map, and each stands for a CSS variable of the page.
INK, MUTED, GRID = "#010203", "#010204", "#010205"
MATCHED, MISMATCHED, BASE, NONE = "#010206", "#010207", "#010208", "#010209"
PAPER = "#01020a"
_VARIABLES = {
    INK: "ink", MUTED: "muted", GRID: "line", MATCHED: "matched", MISMATCHED: "mismatched",
    BASE: "base", NONE: "none", PAPER: "card",
}  # fmt: skip
WIDE, NARROW = 9.4, 3.7
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 9, "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED, "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "legend.frameon": False, "grid.color": GRID, "grid.linewidth": 0.7,
}  # fmt: skip


@dataclass(frozen=True)
class LossCurve:
    """Training losses, and losses of evaluations on the way.

    steps, losses: [n] per optimizer step, nats per token.
    evaluations: name and its (steps, losses), e.g. ("seen, matched", [50, 100], [2.4, 2.2]).
    base: the base model's loss on the same evaluation, drawn as a level, if known.
    """

    steps: ArrayLike
    losses: ArrayLike
    evaluations: Sequence[tuple[str, ArrayLike, ArrayLike]] = ()
    base: float | None = None


@dataclass(frozen=True)
class HeatMap:
    """Values of β per layer and condition.

    title: usually the condition type.
    values: [L, G], layer by condition. labels: G conditions.
    quantity: what the colours mean, with its unit; maps of the same quantity share one scale.
    diverging: True for signed values (colours around zero), False for magnitudes (from zero).
    """

    title: str
    values: ArrayLike
    labels: Sequence[str]
    quantity: str = "mean |β|"
    diverging: bool = False


def _finish(figure: Figure, name: str, description: str) -> str:
    buffer = io.StringIO()
    FigureCanvasSVG(figure)
    with warnings.catch_warnings():
        # Labels may hold letters that matplotlib's own font lacks; the browser's font draws them.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _smooth(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Centred running mean over `span` values, with shorter windows at both ends."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low = np.maximum(index - span // 2, 0)
    high = np.minimum(index + span // 2 + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def loss_curve(curve: LossCurve, name: str, width: float = WIDE) -> str:
    """Training loss (each step and a running mean) and the evaluations on the way, as SVG."""
    steps = np.asarray(curve.steps, dtype=np.float64)
    losses = np.asarray(curve.losses, dtype=np.float64)
    if steps.ndim != 1 or steps.shape != losses.shape:
        raise UserError(
            f"The loss curve has {steps.size} steps but {losses.size} losses: give one loss a step."
        )
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width, 3.3 if width > 5 else 2.9)
        axes.grid(axis="y")
        finite = np.isfinite(losses)
        steps, losses = steps[finite], losses[finite]
        axes.plot(steps, losses, color=MUTED, linewidth=0.8, alpha=0.45)
        if len(losses):
            span = max(3, len(losses) // 15)
            axes.plot(
                steps, _smooth(losses, span), color=INK, linewidth=2, label="training, running mean"
            )
        for (label, at, values), colour in zip(
            curve.evaluations, (MATCHED, MISMATCHED, NONE, BASE) * 8, strict=False
        ):
            axes.plot(
                at, values, color=colour, marker="o", markersize=5, linewidth=1.4, label=label
            )
        if curve.base is not None:
            axes.axhline(
                curve.base, color=BASE, linestyle=(0, (5, 3)), linewidth=1.4, label="base model"
            )
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats per token")
        axes.margins(x=0.02)
        figure.legend(loc="outside upper left", ncols=4 if width > 5 else 2, fontsize=8)
        return _finish(figure, name, "Training and evaluation loss over optimizer steps")


def differences(rows: Sequence[ResultRow], name: str, width: float = WIDE) -> str:
    """Matched - mismatched with its interval for every row, zero as the dividing line, as SVG."""
    rows = [row for row in rows if row.difference is not None]
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width, 0.75 + 0.27 * max(len(rows), 2))
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.grid(axis="x")
        labels = []
        for place, row in enumerate(rows):
            assert row.difference is not None
            colour = MATCHED if row.holds() else MISMATCHED if row.difference.low > 0 else MUTED
            pooled = row.condition_type == POOLED
            axes.plot(
                [row.difference.low, row.difference.high],
                [place, place],
                color=colour,
                linewidth=3.2 if pooled else 1.8,
                solid_capstyle="round",
            )
            axes.plot(
                row.difference.mean,
                place,
                marker="D" if pooled else "o",
                markersize=8 if pooled else 6.5,
                color=colour,
                markerfacecolor=colour if row.split == "seen" else PAPER,
                markeredgewidth=1.6,
            )
            labels.append(f"{'pooled' if pooled else row.name}, {row.split}")
        ends = [i for i in range(1, len(rows)) if rows[i].split != rows[i - 1].split]
        for end in ends:
            axes.axhline(end - 0.5, color=GRID, linewidth=0.8)
        axes.set_yticks(range(len(rows)), labels, color=INK)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(
            "matched \u2212 mismatched, nats per token"
            + ("   (left of 0: the right condition helps)" if width > 5 else "")
        )
        return _finish(figure, name, "Difference of loss, matched minus mismatched condition")


def _shorten(label: str, size: int) -> str:
    label = " ".join(label.split())
    return label if len(label) <= size else label[: size - 1].rstrip(" ,;:") + "…"


def _scale(maps: Sequence[HeatMap], quantity: str) -> float:
    values = [np.abs(np.asarray(m.values)).ravel() for m in maps if m.quantity == quantity]
    top = float(np.nanmax(np.concatenate(values), initial=0.0))
    return top if np.isfinite(top) and top > 0 else 1.0


def heat_map(heat: HeatMap, maps: Sequence[HeatMap], name: str, width: float = WIDE) -> str:
    """One map, conditions down and layers across, with a colour bar, as SVG.

    maps: all maps of the report: those of the same quantity share the scale.
    Raises `UserError` where values and labels do not fit.
    """
    values = np.asarray(heat.values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(heat.labels) or not values.size:
        raise UserError(
            f"Heat map {heat.title!r}: the values have shape {values.shape}, but they must be "
            f"[layers, {len(heat.labels)}], one column for each of the {len(heat.labels)} labels."
        )
    top = _scale(maps, heat.quantity)
    wide = width > 5
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width, 0.85 + (0.21 if wide else 0.2) * values.shape[1])
        image = axes.imshow(
            values.T,
            aspect="auto",
            interpolation="none",
            cmap="RdBu_r" if heat.diverging else "viridis",
            vmin=-top if heat.diverging else 0.0,
            vmax=top,
            extent=(0.5, values.shape[0] + 0.5, values.shape[1] - 0.5, -0.5),
        )
        axes.set_yticks(
            range(values.shape[1]),
            [
                f"{number}. {_shorten(label, 44 if wide else 20)}"
                for number, label in enumerate(heat.labels, 1)
            ],
            color=INK,
            parse_math=False,
            fontsize=9 if wide else 8,
        )
        axes.tick_params(axis="both", length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for edge in range(1, values.shape[1]):
            axes.axhline(edge - 0.5, color=PAPER, linewidth=1.2)
        axes.set_xlabel("layer")
        bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.04, aspect=14)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8)
        bar.locator = MaxNLocator(3)
        bar.update_ticks()
        return _finish(figure, name, f"{heat.quantity} per layer and condition: {heat.title}")
