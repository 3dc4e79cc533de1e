"""The one training loop, whatever is trained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from megan_jax import run_folder
from megan_jax.data.experiment import tokenizer_fingerprint, training_source
from megan_jax.data.sampling import BatchSource
from megan_jax.evaluation.run import evaluate_model, loop_sources, read_splits
from megan_jax.loading import WEIGHTS_FILE, save_weights
from megan_jax.parallel.axes import on_mesh
from megan_jax.training.checkpoints import Checkpoints
from megan_jax.training.experiment import Experiment
from megan_jax.training.interrupts import Interrupts
from megan_jax.training.metric_writers import (
    JsonlWriter,
    MetricWriter,
    TensorBoardWriter,
    read_metrics,
)
from megan_jax.training.progress import Progress
from megan_jax.training.step import State, make_train_step
from megan_jax.training.trainable import join


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
      state: the last state.
      finished: False if a signal stopped it early; a checkpoint was saved.
      exit_code: for the command.
      seconds: spent in the loop, evaluation included.
      signal: what stopped it, for the message.
      first_step: where this call took up the run; 0: at its beginning.
    """

    state: State
    finished: bool
    exit_code: int
    seconds: float
    signal: str = ""
    first_step: int = 0


def fingerprints(experiment: Experiment, data: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What a run must find again when it is resumed or used."""
    base = experiment.base
    own = {
        "source": experiment.config.tokenizer.path or base.source,
        "fingerprint": tokenizer_fingerprint(base.tokenizer),
    }
    return {
        "base_model": {"source": base.source, "fingerprint": base.fingerprint},
        "tokenizer": own,
        "data": dict(data),
    }


def train(
    experiment: Experiment,
    workdir: str,
    argv: Sequence[str],
    *,
    say: Callable[[str], None] = print,
) -> tuple[run_folder.RunFolder, Outcome]:
    """Trains, or goes on with, the run in `workdir`.

    The order at the start: the data is made ready, then the folder is created or checked against
    what is configured now, then the newest good checkpoint is restored if there is one.

    Raises:
      UserError: data, folder or checkpoint that do not fit the configuration.
    """
    config = experiment.config
    source, described = training_source(config, experiment.base.tokenizer)
    marks = fingerprints(experiment, described)
    run, _ = run_folder.create_or_resume(workdir, config=config, argv=argv, fingerprints=marks)
    with run.lock(), on_mesh(experiment.mesh, experiment.rules):
        experiment.base.tokenizer.save(run.tokenizer)
        report_data(source, say)
        with Checkpoints(run.checkpoints, keep=config.train.keep_checkpoints) as checkpoints:
            if checkpoints.latest_step() is None:
                state = experiment.init_state()
            else:
                state, _ = checkpoints.restore(experiment.abstract_state, fingerprints=marks)
                say(f"resuming {run.path} after step {int(state.step)}")
            outcome = _loop(experiment, run, source, checkpoints, marks, state)
        save_weights(
            run.path / WEIGHTS_FILE,
            jax.device_get(join(outcome.state.fixed, outcome.state.trainable)),
        )
    return run, outcome


def report_data(source: BatchSource, say: Callable[[str], None]) -> None:
    """Says what the data holds, and what of it was cut or left out."""
    stats = source.stats
    say(
        f"data: {stats.examples:,} examples, {stats.tokens:,} tokens in {stats.rows:,} rows an "
        f"epoch ({stats.padding_share:.1%} padding), {stats.labelled_tokens:,} labelled"
    )
    for line in source.admission.report(source.row_length):
        say(f"data: {line}")
    if stats.conditions_cut:
        say(f"data: {stats.conditions_cut:,} examples with a condition cut to condition_length")


def _loop(
    experiment: Experiment,
    run: run_folder.RunFolder,
    source: BatchSource,
    checkpoints: Checkpoints,
    marks: Mapping[str, Any],
    state: State,
) -> Outcome:
    train_config = experiment.config.train
    step_fn = jax.jit(
        make_train_step(
            experiment.model,
            experiment.optimizer,
            experiment.rate,
            microbatches=train_config.microbatches,
            loss_chunk=train_config.loss_chunk,
        ),
        donate_argnums=0,
        out_shardings=(
            jax.tree.map(lambda leaf: leaf.sharding, experiment.abstract_state),
            None,
        ),
    )
    start, total = int(state.step), train_config.steps
    meta = {
        "config": run.config,
        "fingerprints": marks,
        "git": run.info["git"],
        "package_version": run_folder.package_version(),
    }
    evaluator = _Evaluator(experiment) if train_config.eval_every else None
    began, read = time.monotonic(), _tokens_before(run, start)
    writers: list[Any] = [JsonlWriter(run.metrics, resume_step=start)]
    if train_config.tensorboard:
        writers.append(TensorBoardWriter(run.tensorboard, resume_step=start))
    progress = Progress(total, start=start, log_every=train_config.log_every)

    def shown(step: int, values: dict[str, float]) -> None:
        if "loss" in values:
            progress.update(step, values["loss"], int(values["tokens"]))

    with Interrupts() as interrupts, progress, MetricWriter(*writers, on_record=shown) as metrics:
        step = start
        while step < total and not interrupts.requested:
            batch = experiment.put(source.batch(step))
            state, values = step_fn(state, experiment.frozen, batch)
            step += 1
            read += int((np.asarray(batch.segment_ids) > 0).sum())
            metrics.write(step, {**values, "tokens_seen": read})
            due = evaluator is not None and step % train_config.eval_every == 0
            if due and step < total:
                with progress.paused():
                    metrics.write(step, evaluator(state))
            if step % train_config.checkpoint_every == 0 and step < total:
                metrics.flush()
                checkpoints.save(step, state, meta)
        metrics.flush()
        if step > start or checkpoints.latest_step() is None:
            checkpoints.save(step, state, meta)
        checkpoints.wait()
        if evaluator is not None and start < step == total and not interrupts.requested:
            metrics.write(step, evaluator(state))
    return Outcome(
        state=state,
        finished=step >= total,
        exit_code=0 if step >= total else interrupts.exit_code,
        seconds=time.monotonic() - began,
        signal=interrupts.name,
        first_step=start,
    )


def _tokens_before(run: run_folder.RunFolder, step: int) -> int:
    """Training tokens of the steps that a resumed run has done."""
    if step == 0 or not run.metrics.is_file():
        return 0
    seen = [
        r["tokens_seen"]
        for r in read_metrics(run.metrics)
        if r.get("step") == step and "tokens_seen" in r
    ]
    return int(seen[-1]) if seen else 0


class _Evaluator:
    """Evaluation in the loop: response losses on `data.eval`, flattened to scalars."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        config = experiment.config
        self.splits = read_splits(config, loop_sources(config))

    def __call__(self, state: State) -> dict[str, float]:
        experiment = self.experiment
        found = evaluate_model(
            experiment.model,
            experiment.params(state),
            experiment.original_target(state),
            experiment.base.tokenizer,
            experiment.config,
            self.splits,
            put=experiment.put,
            answers=False,
        )
        scalars: dict[str, float] = {}
        for row in found.rows:
            prefix = f"eval/{row.split}/{row.condition_type}"
            for name in ("base", "matched", "mismatched", "none"):
                value = getattr(row, name)
                if value is not None:
                    scalars[f"{prefix}/{name}"] = value
        return scalars
