"""The report of a run: what it learned, measured on held-out rows, and what it says."""

from __future__ import annotations

import dataclasses
import functools
import platform
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from megan_jax import config as configs
from megan_jax.commands import command_line
from megan_jax.data.example import Example
from megan_jax.data.experiment import SUITE, condition_length, encode
from megan_jax.evaluation.answers import conversation_answers
from megan_jax.evaluation.plots import HeatMap, LossCurve
from megan_jax.evaluation.report import Answer, ReportData, RunFacts, Sample, write_report
from megan_jax.evaluation.results import POOLED
from megan_jax.evaluation.run import evaluate_model
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
# Texts read under every condition of a heat map, and how many tokens of each.
HEAT_TEXTS, HEAT_TOKENS = 2, 96


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
    """One example for each of the first `count` conditions of a type; none without a condition."""
    found: dict[str, Example] = {}
    for example in examples:
        if example.condition is None or example.condition_type != condition_type:
            continue
        if example.key not in found:
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

    beta = jax.lax.map(lambda c: under(*c), (conditions, condition_mask))
    square = jnp.mean(jnp.square(beta - jnp.mean(beta, axis=0)), axis=-1)
    weights = jnp.broadcast_to(mask, square.shape[2:])
    return jnp.sqrt(jnp.sum(square * weights, axis=(2, 3)) / jnp.sum(weights)).T


def heat_maps(
    experiment: Experiment, params: Params, examples: Sequence[Example]
) -> tuple[list[HeatMap], int]:
    """A map (layer × condition) for every condition type with at least two conditions.

    Returns:
      The maps, and the number of tokens that were read for them.
    """
    tokenizer, config = experiment.base.tokenizer, experiment.config
    if experiment.model.hypernet is None or not config.report.heatmap_conditions:
        return [], 0
    maps, read = [], 0
    for condition_type in dict.fromkeys(example.condition_type for example in examples):
        chosen = conditions_of(examples, condition_type, config.report.heatmap_conditions)
        if len(chosen) < 2:
            continue
        texts = [e for e in examples if e.condition_type == condition_type][:HEAT_TEXTS]
        rows = [x.tokens[:HEAT_TOKENS] for x in encode(texts, tokenizer, config, training=False)]
        conditions = [x.conditions[0] for x in encode(chosen, tokenizer, config, training=False)]
        tokens, mask = _padded(rows, HEAT_TOKENS)
        used, used_mask = _padded(conditions, condition_length(config))
        values = _condition_reaction(experiment.model, params, tokens, mask, used, used_mask)
        read += int(mask.sum()) * len(chosen)
        labels = [_label(example) for example in chosen]
        maps.append(
            HeatMap(condition_type, np.asarray(values), labels, "RMS of β − mean over conditions")
        )
    return maps, read


def _padded(rows: Sequence[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.zeros((len(rows), width), np.int32)
    mask = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, 1
    return tokens, mask


def _label(example: Example) -> str:
    return example.condition_key or example.condition_text or "none"


def samples(
    experiment: Experiment,
    params: Params,
    base_params: Params | None,
    examples: Sequence[Example],
) -> tuple[list[Sample], int]:
    """The same prompts answered under two or three conditions of their type, and by the base.

    Args:
      experiment, params: what answers.
      base_params: the base model's parameters if training changed them, else None.
      examples: where prompts and conditions are taken from.

    Returns:
      The samples, and the number of tokens that were read and written for them.
    """
    config, model = experiment.config, experiment.model
    plain = Model(model.config, None, model.precision)
    types = list(dict.fromkeys(example.condition_type for example in examples))
    found, used = [], 0
    for number in range(config.report.samples):
        condition_type = types[number % len(types)]
        prompts = [e for e in examples if e.condition_type == condition_type]
        prompt = prompts[(number // len(types)) % len(prompts)]
        chosen = conditions_of(examples, condition_type, 3)
        others = [e for e in chosen if e.key != prompt.key][:2]
        asked = [prompt, *others] if model.hypernet is not None else []

        def answer(own: Model, own_params: Params, conditions: list[str | None]) -> list[str]:
            nonlocal used
            texts, tokens = conversation_answers(
                own,
                own_params,
                experiment.base.tokenizer,
                prompt,  # noqa: B023 (called at once)
                conditions,
                config,
                max_new_tokens=config.report.sample_tokens,
            )
            used += tokens
            return texts

        base = answer(plain, params if base_params is None else base_params, [None])[0]
        conditions = [example.condition_text for example in asked]
        texts = answer(model, params, conditions) if asked else []
        found.append(
            Sample(
                condition_type=condition_type,
                prompt=prompt.messages[-2].content if len(prompt.messages) > 1 else "",
                base=base,
                answers=[
                    Answer(
                        condition,
                        text,
                        note="matching" if example is prompt else "another condition",
                    )
                    for example, condition, text in zip(asked, conditions, texts, strict=True)
                ],
                reference=prompt.messages[-1].content,
            )
        )
    return found, used


def _facts(
    experiment: Experiment,
    run: RunFolder,
    outcome: Outcome,
    eval_tokens: int,
    seconds: float | None,
) -> RunFacts:
    config, h = experiment.config, experiment.model.hypernet_config
    trainable = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(outcome.state.trainable))
    everything = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(experiment.model.abstract()))
    steps = [r for r in read_metrics(run.metrics) if "tokens_seen" in r]
    git = run.info.get("git", {})
    hypernet = "none" if h is None else f"{h.kind}, R = {h.width}, {h.heads} head(s), {h.init}"
    return RunFacts(
        model=config.model,
        hypernetwork=hypernet,
        trainable_parameters=trainable,
        total_parameters=everything,
        steps=int(outcome.state.step),
        train_tokens=int(steps[-1]["tokens_seen"]) if steps else None,
        eval_tokens=eval_tokens,
        wall_seconds=seconds,
        matmul_gflops=matmul_gflops(),
        peak_memory_gb=peak_memory_gb(),
        device=f"{jax.devices()[0].device_kind} × {jax.device_count()} ({platform.machine()})",
        date=time.strftime("%Y-%m-%d"),
        git_revision=str(git.get("revision", "unknown"))
        + (" + changes" if git.get("dirty") else ""),
        config=configs.flatten(run.config),
    )


def _summary(experiment: Experiment, trainable: int, frozen: bool) -> str:
    """What was done, in two or three sentences."""
    config, h = experiment.config, experiment.model.hypernet_config
    if h is None or h.kind == "none":
        return f"{config.model} was trained without gates, {trainable:,} parameters in all."
    start = (
        f"{config.model} is frozen; {trainable:,} parameters were trained."
        if frozen
        else f"{config.model} was trained, {trainable:,} parameters in all."
    )
    if h.kind == "static":
        return f"{start} The gates of its SwiGLU blocks are learned and read no condition."
    start += (
        " A hypernetwork reads a condition written in plain text and sets the gates of the SwiGLU "
        "blocks."
    )
    if config.data.placement != "none":
        return f"{start} The prompts name the condition too."
    if all(source.partition(":")[0] == SUITE for source in config.data.train):
        return f"{start} The prompts do not say what the condition says."
    return start


def make_report(
    experiment: Experiment,
    run: RunFolder,
    outcome: Outcome,
    splits: Mapping[str, Sequence[Example]],
    began: float,
) -> None:
    """Evaluates the trained model and writes evaluation.json and report.html into the run folder.

    Args:
      experiment, run, outcome: of the finished training.
      splits: what it is evaluated on; the first one also gives prompts and conditions.
      began: `time.monotonic()` when the command started.
    """
    config = experiment.config
    print("evaluating on held-out rows …", flush=True)
    with on_mesh(experiment.mesh, experiment.rules):
        params = experiment.params(outcome.state)
        base_params = experiment.original_target(outcome.state)
        evaluation = evaluate_model(
            experiment.model,
            params,
            base_params,
            experiment.base.tokenizer,
            config,
            splits,
            put=experiment.put,
            answers=config.eval.answers,
        )
        first = next(iter(splits.values()))
        maps, map_tokens = heat_maps(experiment, params, first)
        spoken, spoken_tokens = samples(experiment, params, base_params, first)
    tokens = evaluation.tokens + map_tokens + spoken_tokens
    print_results(evaluation.rows)
    # The time of a run that was interrupted is not this command's.
    seconds = None if outcome.first_step else time.monotonic() - began
    facts = _facts(experiment, run, outcome, tokens, seconds)
    records = [r for r in read_metrics(run.metrics) if "loss" in r]
    base = next((r.base for r in evaluation.rows if r.condition_type == POOLED), None)
    chat = command_line("generate", ["--model", str(run.path), "--interactive"])
    data = ReportData(
        title="A language model steered by plain-text conditions",
        facts=facts,
        rows=evaluation.rows,
        summary=(_summary(experiment, facts.trainable_parameters, base_params is None),),
        curve=LossCurve([r["step"] for r in records], [r["loss"] for r in records], base=base),
        heat_maps=maps,
        heat_caption=HEAT_CAPTION,
        samples=spoken,
        commands=(
            ("Chat with it (/condition changes the condition)", chat),
            ("Evaluate it again", command_line("evaluate", ["--workdir", str(run.path)])),
        ),
    )
    write_report(run.report, data)
    write_json(
        run.path / "evaluation.json",
        {
            **evaluation.record(),
            "tokens": tokens,
            "facts": dataclasses.asdict(dataclasses.replace(facts, config={})),
        },
    )
    print(f"\nreport: {run.report}\nchat:   {chat}")
