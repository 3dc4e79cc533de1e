"""The report of a run: what it learned, measured on held-out rows, and what it says."""

from __future__ import annotations

import dataclasses
import functools
import platform
import resource
import statistics
import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from megan_jax import config as configs
from megan_jax.data.example import Example
from megan_jax.data.experiment import encode
from megan_jax.evaluation.answers import conversation_answers
from megan_jax.evaluation.plots import HeatMap, LossCurve
from megan_jax.evaluation.report import Answer, ReportData, RunFacts, Sample, write_report
from megan_jax.evaluation.results import POOLED, row_record
from megan_jax.evaluation.run import Evaluation, evaluate_model, suite_splits
from megan_jax.evaluation.terminal import print_results
from megan_jax.models.model import Model, Params
from megan_jax.parallel.axes import on_mesh
from megan_jax.run_folder import RunFolder, write_json
from megan_jax.training.experiment import Experiment
from megan_jax.training.loop import Outcome
from megan_jax.training.metric_writers import read_metrics

HEAT_CAPTION = (
    "How strongly each layer's gates react to the condition: the root mean square, over channels "
    "and over the tokens of the same texts, of β minus its mean over the conditions of the map. "
    "Zero would mean that the condition changes nothing."
)
# Texts read under every condition of a heat map.
HEAT_TEXTS = 4


def matmul_gflops(repeats: int = 5) -> float:
    """Measured float32 matrix multiplication in GFLOP/s (median), to judge times by."""
    size = 1024
    x = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(x, x).block_until_ready()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(10):
            y = multiply(x, x)
        y.block_until_ready()
        rates.append(10 * 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return statistics.median(rates)


def peak_memory_gb() -> float:
    """The most memory that this process has held so far, in 10⁹ bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def conditions_of(examples: Sequence[Example], condition_type: str, count: int) -> list[Example]:
    """One example for each of the first `count` conditions of a type."""
    found: dict[str, Example] = {}
    for example in examples:
        if example.condition_type == condition_type and example.key not in found:
            found[example.key] = example
        if len(found) == count:
            break
    return list(found.values())


@functools.partial(jax.jit, static_argnames="model")
def _condition_reaction(
    model: Model,
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    conditions: jax.Array,
    condition_mask: jax.Array,
) -> jax.Array:
    """[L, G]: root mean square of β minus its mean over the G conditions."""

    def under(condition: jax.Array, used: jax.Array) -> jax.Array:
        rows = len(tokens)
        return model.apply(
            params,
            tokens,
            condition_ids=jnp.broadcast_to(condition, (rows, len(condition))),
            condition_mask=jnp.broadcast_to(used, (rows, len(used))),
            return_beta=True,
        ).beta

    # One condition at a time: β of all of them at once would not fit a small machine.
    mean = jnp.mean(jax.lax.map(lambda c: under(*c), (conditions, condition_mask)), axis=0)

    def size(condition: tuple[jax.Array, jax.Array]) -> jax.Array:
        square = jnp.mean(jnp.square(under(*condition) - mean), axis=-1)
        weights = jnp.broadcast_to(mask, square.shape[1:])
        return jnp.sqrt(jnp.sum(square * weights, axis=(1, 2)) / jnp.sum(weights))

    return jax.lax.map(size, (conditions, condition_mask)).T


def heat_maps(experiment: Experiment, params: Params, examples: Sequence[Example]) -> list[HeatMap]:
    """A map (layer × condition) for every condition type with at least two conditions."""
    if experiment.model.hypernet is None or not experiment.config.report.heatmap_conditions:
        return []
    maps = []
    for condition_type in dict.fromkeys(example.condition_type for example in examples):
        chosen = conditions_of(
            examples, condition_type, experiment.config.report.heatmap_conditions
        )
        if len(chosen) < 2:
            continue
        texts = [e for e in examples if e.condition_type == condition_type][:HEAT_TEXTS]
        tokenizer, config = experiment.base.tokenizer, experiment.config
        rows = [x.tokens[:96] for x in encode(texts, tokenizer, config, training=False)]
        conditions = [x.conditions[0] for x in encode(chosen, tokenizer, config, training=False)]
        tokens, mask = _padded(rows, 96)
        used, used_mask = _padded(conditions, max(len(c) for c in conditions))
        values = _condition_reaction(experiment.model, params, tokens, mask, used, used_mask)
        labels = [_label(example) for example in chosen]
        maps.append(
            HeatMap(condition_type, np.asarray(values), labels, "RMS of β − mean over conditions")
        )
    return maps


def _padded(rows: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, 1
    return tokens, mask


def _label(example: Example) -> str:
    return example.condition_key or example.condition_text or "none"


def samples(experiment: Experiment, params: Params, examples: Sequence[Example]) -> list[Sample]:
    """The same prompts answered under two or three conditions of their type, and by the base."""
    count = experiment.config.report.samples
    types = list(dict.fromkeys(example.condition_type for example in examples))
    found = []
    for number in range(count):
        condition_type = types[number % len(types)]
        chosen = conditions_of(examples, condition_type, 3)
        prompts = [e for e in examples if e.condition_type == condition_type]
        prompt = prompts[(number // len(types)) % len(prompts)]
        others = [e for e in chosen if e.key != prompt.key][:2]
        asked = [prompt, *others]
        conditions = [None, *(example.condition_text for example in asked)]
        texts = conversation_answers(
            experiment.model,
            params,
            experiment.base.tokenizer,
            prompt,
            conditions,
            experiment.config,
            max_new_tokens=experiment.config.report.sample_tokens,
        )
        found.append(
            Sample(
                condition_type=condition_type,
                prompt=prompt.messages[-2].content,
                base=texts[0],
                answers=[
                    Answer(
                        condition,
                        text,
                        note="matching" if example is prompt else "another condition",
                    )
                    for example, condition, text in zip(
                        asked, conditions[1:], texts[1:], strict=True
                    )
                ],
                reference=prompt.messages[-1].content,
            )
        )
    return found


def _facts(
    experiment: Experiment,
    run: RunFolder,
    outcome: Outcome,
    evaluation: Evaluation,
    seconds: float,
) -> RunFacts:
    config, h = experiment.config, experiment.model.hypernet_config
    trainable = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(outcome.state.trainable))
    steps = [r for r in read_metrics(run.metrics) if "tokens_seen" in r]
    git = run.info.get("git", {})
    hypernet = "none" if h is None else f"{h.kind}, R = {h.width}, {h.heads} head(s), {h.init}"
    return RunFacts(
        model=config.model,
        hypernetwork=hypernet,
        trainable_parameters=trainable,
        total_parameters=experiment.model.config.parameter_count + trainable,
        steps=int(outcome.state.step),
        train_tokens=int(steps[-1]["tokens_seen"]) if steps else None,
        eval_tokens=evaluation.tokens,
        wall_seconds=seconds,
        matmul_gflops=matmul_gflops(),
        peak_memory_gb=peak_memory_gb(),
        device=f"{jax.devices()[0].device_kind} × {jax.device_count()} ({platform.machine()})",
        date=time.strftime("%Y-%m-%d"),
        git_revision=str(git.get("revision", "unknown"))
        + (" + changes" if git.get("dirty") else ""),
        config=configs.flatten(run.config),
    )


def make_report(experiment: Experiment, run: RunFolder, outcome: Outcome, began: float) -> None:
    """Evaluates the trained model and writes evaluation.json and report.html into the run folder.

    Args:
      experiment, run, outcome: of the finished training.
      began: `time.monotonic()` when the command started.
    """
    config = experiment.config
    print("evaluating on held-out rows …", flush=True)
    splits = suite_splits(config)
    with on_mesh(experiment.mesh, experiment.rules):
        params = experiment.params(outcome.state)
        evaluation = evaluate_model(
            experiment.model,
            params,
            experiment.original_target(outcome.state),
            experiment.base.tokenizer,
            config,
            splits,
            put=experiment.put,
            answers=config.eval.answers,
        )
        first = next(iter(splits.values()))
        maps = heat_maps(experiment, params, first)
        spoken = samples(experiment, params, first)
    print_results(evaluation.rows)
    facts = _facts(experiment, run, outcome, evaluation, time.monotonic() - began)
    records = [r for r in read_metrics(run.metrics) if "loss" in r]
    base = next((r.base for r in evaluation.rows if r.condition_type == POOLED), None)
    chat = f"python -m megan_jax.generate --model {run.path} --interactive"
    data = ReportData(
        title="A language model steered by plain-text conditions",
        facts=facts,
        rows=evaluation.rows,
        summary=(
            f"{config.model} is frozen; a hypernetwork with {facts.trainable_parameters:,} "
            "parameters reads a condition written in plain text and sets the gates of its SwiGLU "
            "blocks. The prompts do not say what the condition says.",
        ),
        curve=LossCurve([r["step"] for r in records], [r["loss"] for r in records], base=base),
        heat_maps=maps,
        heat_caption=HEAT_CAPTION,
        samples=spoken,
        commands=(
            ("Chat with it (/condition changes the condition)", chat),
            ("Evaluate it again", f"python -m megan_jax.evaluate --workdir {run.path}"),
        ),
    )
    write_report(run.report, data)
    write_json(
        run.path / "evaluation.json",
        {
            "rows": [row_record(row) for row in evaluation.rows],
            "tokens": evaluation.tokens,
            "dropped": evaluation.dropped,
            "facts": dataclasses.asdict(dataclasses.replace(facts, config={})),
        },
    )
    print(f"\nreport: {run.report}\nchat:   {chat}")
