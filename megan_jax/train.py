"""`python -m megan_jax.train`: trains a hypernetwork, or goes on with an interrupted run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from megan_jax.commands import command_line, run_command

DESCRIPTION = """Trains what an experiment file says and writes a run folder.

The same command goes on with a run that was interrupted. Any key can be set on the command line:
  python -m megan_jax.train --config experiments/quickstart.py --workdir runs/mine \\
      --config.train.steps=100 --config.hypernet.kind=layerwise
megan_jax/config_keys.py lists all keys."""


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates `--config.key=value` (or `--config.key value`) from the other arguments.

    Returns:
      (the others, `key=value` strings).
    """
    others, overrides = [], []
    position = 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        if not argument.startswith("--config."):
            others.append(argument)
            continue
        setting = argument.removeprefix("--config.")
        if "=" not in setting and position < len(argv) and not argv[position].startswith("--"):
            setting = f"{setting}={argv[position]}"
            position += 1
        overrides.append(setting)
    return others, overrides


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    began = time.monotonic()
    others, overrides = split_overrides(argv)
    parser = argparse.ArgumentParser(
        prog="megan_jax.train",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py[:arg]", help="experiment file")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="run folder")
    arguments = parser.parse_args(others)

    # Imported late: `--help` and a wrong flag need no JAX.
    from megan_jax import config as configs
    from megan_jax.training.experiment import build
    from megan_jax.training.loop import train

    config = configs.load(arguments.config, overrides)
    experiment = build(config)
    splits = None
    if config.report.enabled:
        # Read now: what is missing must not be found out after the training.
        from megan_jax.evaluation.run import final_sources, read_splits

        splits = read_splits(config, final_sources(config))
    run, outcome = train(experiment, arguments.workdir, argv)
    if not outcome.finished:
        print(
            f"{outcome.signal}: saved step {int(outcome.state.step)} of {config.train.steps}. "
            f"Go on with:\n  {command_line('train', argv)}"
        )
        return outcome.exit_code
    print(f"trained {config.train.steps} steps in {outcome.seconds:.0f} s: {run.path}")
    if splits is not None:
        from megan_jax.report import make_report

        make_report(experiment, run, outcome, splits, began)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
