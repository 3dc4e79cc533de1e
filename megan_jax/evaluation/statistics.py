"""Paired bootstrap intervals for token-weighted losses and for accuracies.

A mean loss of a group is a ratio of sums: the summed token losses of its examples ÷ the number of
their tokens. Examples, not tokens, are drawn: the tokens of one example are not independent. Two
conditions of the same examples are compared in pairs, so that what both share cancels. Efron and
Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 and 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megan_jax.errors import UserError

RESAMPLES = 2000
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, all three in the unit of the estimate."""

    mean: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero (NaN never does)."""
        return self.low > 0.0 or self.high < 0.0


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise UserError(f"{name} must be a flat list with one number per example.")
    if not np.isfinite(array).all():
        raise UserError(
            f"{name} holds a value that is not finite, first at example "
            f"{int(np.flatnonzero(~np.isfinite(array))[0])}: a mean over it would mean nothing."
        )
    return array


def _counts(tokens: ArrayLike, size: int) -> NDArray[np.float64]:
    array = _vector(tokens, "tokens")
    if len(array) != size:
        raise UserError(f"There are {size} losses but {len(array)} token counts.")
    if size == 0:
        raise UserError("There is nothing to compare: the group has no examples.")
    if (array <= 0).any():
        raise UserError(
            f"Example {int(np.flatnonzero(array <= 0)[0])} has no response tokens: leave it out."
        )
    return array


def weighted_mean(loss_sum: ArrayLike, tokens: ArrayLike) -> float:
    """Mean loss per token, nats: ``sum(loss_sum) / sum(tokens)``, each one value per example."""
    losses = _vector(loss_sum, "loss_sum")
    return float(losses.sum() / _counts(tokens, len(losses)).sum())


def _resampled_sums(
    columns: NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """Sums ``[resamples, k]`` of the rows of `columns` ``[n, k]``, n of them drawn with return."""
    size = len(columns)
    chunk = max(1, _CHUNK // size)
    sums = [
        columns[rng.integers(0, size, (min(chunk, resamples - done), size))].sum(axis=1)
        for done in range(0, resamples, chunk)
    ]
    return np.concatenate(sums)


def _percentiles(estimate: float, draws: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


def _check_resamples(resamples: int) -> None:
    if resamples < 100:
        raise UserError(f"A bootstrap interval needs at least 100 resamples, not {resamples}.")


def pooled_interval(
    groups: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    macro: bool = False,
) -> Interval:
    """Mean paired difference ``a - b`` per token over several groups, with its 95 % interval.

    groups: per group (a condition type, say) `a_sum`, `b_sum` and `tokens` as in
        `paired_interval`. Groups are strata: each keeps its number of examples in every resample.
    macro: False weighs by tokens (ratio of the sums over all groups), True gives each group the
        same weight (mean of the groups' ratios).
    seed: the interval is a pure function of it and the data.
    Raises `UserError` for no groups, and whatever `paired_interval` raises.
    """
    _check_resamples(resamples)
    if not groups:
        raise UserError("There is nothing to pool: no group of examples was given.")
    totals, drawn = [], []
    for index, (a_sum, b_sum, tokens) in enumerate(groups):
        first, second = _vector(a_sum, "a_sum"), _vector(b_sum, "b_sum")
        if len(first) != len(second):
            raise UserError(
                f"A paired comparison needs the same examples on both sides: "
                f"{len(first)} and {len(second)} were given."
            )
        columns = np.stack([first - second, _counts(tokens, len(first))], axis=1)
        totals.append(columns.sum(axis=0))
        rng = np.random.default_rng([seed, index])
        drawn.append(_resampled_sums(columns, rng, resamples))
    total, draws = np.stack(totals), np.stack(drawn)
    if macro:
        return _percentiles(
            float((total[:, 0] / total[:, 1]).mean()), (draws[..., 0] / draws[..., 1]).mean(axis=0)
        )
    total, draws = total.sum(axis=0), draws.sum(axis=0)
    return _percentiles(float(total[0] / total[1]), draws[:, 0] / draws[:, 1])


def paired_interval(
    a_sum: ArrayLike,
    b_sum: ArrayLike,
    tokens: ArrayLike,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean difference ``(sum(a_sum) - sum(b_sum)) / sum(tokens)`` with its 95 % interval.

    a_sum, b_sum: [n] summed token losses of the same n examples under two conditions, nats.
    tokens: [n] their numbers of response tokens, at least one each. For accuracies give 1 each.
    seed: the interval is a pure function of it and the data.
    Raises `UserError` for no examples, different lengths, values that are not finite, and examples
    without tokens.
    """
    return pooled_interval([(a_sum, b_sum, tokens)], seed=seed, resamples=resamples)


def mean_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Weighted mean of one value per example with its 95 % interval; `weights` are 1 if absent.

    A mean loss: `values` the summed token losses ÷ tokens, `weights` the tokens.
    """
    array = _vector(values, "values")
    weight = np.ones_like(array) if weights is None else _counts(weights, len(array))
    return paired_interval(array * weight, np.zeros_like(array), weight, seed, resamples)


def macro_average(by_group: Mapping[str, float]) -> float:
    """Unweighted mean over groups (tasks, condition types); NaN where there is none."""
    return float(np.mean(list(by_group.values()))) if by_group else float("nan")
