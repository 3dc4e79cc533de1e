"""`python -m megan_jax.evaluate`: losses and answers under matching, other and no conditions."""

from __future__ import annotations

import argparse
import json
import sys

from megan_jax.commands import run_command
from megan_jax.errors import UserError

DESCRIPTION = """Measures the response loss (nats per token) under the matching condition, a
mismatched one of the same type, and none, with paired 95 % intervals; and, where examples have
short answers, how many are right.

  python -m megan_jax.evaluate --workdir runs/quickstart
  python -m megan_jax.evaluate --model PATH --data my.jsonl --json

PATH is a run folder, a Hugging Face or MeGan folder, a .gguf file, or smollm2-135m-instruct.
Without --data, the suite's seen and unseen test splits are used; for a run that was trained on
other data, its config.data.eval. What is found for a run folder without --data is also kept in its
evaluation.json."""

# The sections and keys that shape an evaluation and not the model that is measured.
CHANGEABLE = ("data", "eval", "mesh", "seed", "tokenizer.chat_template", "tokenizer.date")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parses the command line; returns the arguments and the config overrides."""
    from megan_jax.train import split_overrides

    others, overrides = split_overrides(argv)
    parser = argparse.ArgumentParser(
        prog="megan_jax.evaluate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", metavar="DIR", help="run folder")
    which.add_argument("--model", metavar="PATH", help="any model")
    parser.add_argument(
        "--data",
        metavar="FILE.jsonl",
        action="append",
        default=[],
        help="examples to evaluate on, or suite:SPLIT; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(others), overrides


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments, overrides = parse(argv)

    import jax

    from megan_jax import config as configs
    from megan_jax import loading, run_folder
    from megan_jax.evaluation.run import (
        evaluate_model,
        final_sources,
        read_splits,
        terminal_meter,
    )
    from megan_jax.evaluation.terminal import print_results
    from megan_jax.models.rotary import check_length
    from megan_jax.parallel.axes import make_mesh, on_mesh
    from megan_jax.training.experiment import placer

    if arguments.workdir:
        run_folder.open(arguments.workdir)
    loaded = loading.load_model(arguments.workdir or arguments.model)
    config = loaded.config
    if arguments.data:
        # A run's limits are about the suite; a user's file is measured whole.
        config.eval.limit_per_type = config.eval.answer_limit = 0
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE.")
        configs.set_key(config, name, text)
        if name not in CHANGEABLE and name.partition(".")[0] not in CHANGEABLE:
            raise UserError(
                f"--config.{name} belongs to the model and can't be changed when it is measured; "
                f"what can: {', '.join(CHANGEABLE)}."
            )
    configs.validate(config)
    check_length(loaded.model.config, config.data.row_length)
    mesh = make_mesh({axis: config.mesh[axis] for axis in config.mesh if axis != "rules"})
    rules = configs.axis_rules(config)
    splits = read_splits(config, arguments.data or final_sources(config))
    with on_mesh(mesh, rules):
        params = loading.place(loaded.params, loading.shardings(loaded.model, mesh, rules))
        base_params = None
        if loaded.changes_base:
            base_params = {"target": jax.device_put(loaded.base.params["target"])}
        found = evaluate_model(
            loaded.model,
            params,
            base_params,
            loaded.tokenizer,
            config,
            splits,
            put=placer(mesh, rules),
            answers=config.eval.answers,
            on_tokens=terminal_meter("evaluating"),
        )
    record = found.record()
    if arguments.json:
        print(json.dumps(record, indent=1))
    else:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        print_results(found.rows)
        for note in found.notes:
            print(note)
    if arguments.workdir and not arguments.data:
        path = run_folder.open(arguments.workdir).path / "evaluation.json"
        before = json.loads(path.read_text()) if path.is_file() else {}
        run_folder.write_json(path, {**before, **record})
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
