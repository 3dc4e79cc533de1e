"""Converts a model between formats.

    python -m megan_jax.convert --source PATH --target DIR --format hf|megan-torch

PATH is a run folder, a Hugging Face or MeGan folder or a .gguf file; DIR must not exist yet. The
tensors are copied one by one, so that a model larger than memory converts too. Quantised tensors
become float32, everything else keeps its type. The tokenizer comes along.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from megan_jax.commands import run_command
from megan_jax.convert import names
from megan_jax.convert.load import Source, open_model
from megan_jax.convert.safetensors_io import DEFAULT_SHARD_BYTES
from megan_jax.convert.save import new_folder, write_model
from megan_jax.errors import UserError
from megan_jax.run_folder import is_run_folder

FORMATS = ("hf", "megan-torch")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


def convert(
    source: str | Path,
    target: str | Path,
    form: str,
    base: bool = False,
    merged: bool = False,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Source:
    """Writes the model at `source` as the folder `target`; all of it or nothing.

    Args:
      form: "hf" (the target network) or "megan-torch" (with the hypernetwork).
      base: accept that "hf" leaves the hypernetwork out.
      merged: fold what steers the network into its weights, where that is possible.
      max_shard_bytes: tensor data per file.

    Returns:
      The opened source.

    Raises:
      UserError: a source that can't be loaded, a target that exists or can't be written, a
        hypernetwork that the format can't hold, or none where the format needs one.
    """
    model = open_model(source)
    hypernet = _hypernet_to_write(model, form, base, merged)
    table = names.target_table(model.config) + names.hyper_table(model.config, hypernet)
    tensors = [model.tensors[name] for entry in table for name in entry.names()]
    with new_folder(target) as folder:
        write_model(folder, model.config, hypernet, tensors, max_shard_bytes)
        _bring_tokenizer(model.path, folder)
    return model


def _hypernet_to_write(model: Source, form: str, base: bool, merged: bool):
    if form == "megan-torch":
        if model.hypernet is None:
            raise UserError(
                f"{model.path}: a base model without a hypernetwork; write it with --format hf."
            )
        if merged or base:
            raise UserError("--merged and --base belong to --format hf.")
        return model.hypernet
    if model.hypernet is not None and model.hypernet.kind != "none":
        if merged:
            raise UserError(
                f"{model.path}: its gates can't be merged into the weights, since β differs from "
                "token to token. Use --format megan-torch to keep the hypernetwork, or --base for "
                "the base model alone."
            )
        if not base:
            raise UserError(
                f"{model.path}: --format hf can't hold the hypernetwork (its gates depend on each "
                "token and can't be merged). Use --format megan-torch to keep it, or add --base to "
                "write the base model alone."
            )
    return None


def _bring_tokenizer(source: Path, folder: Path) -> None:
    """Copies a folder's tokenizer files; writes out the tokenizer of a GGUF file."""
    if source.is_dir():
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    # Tokenizers take a moment to import, and only this format needs them.
    from megan_jax.data.tokenizers import load_tokenizer

    try:
        load_tokenizer(source).save(folder)
    except UserError as error:
        print(f"note: the tokenizer was not written. {error}", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    """Runs the command.

    Raises:
      UserError: as `convert`.
    """
    parser = argparse.ArgumentParser(
        prog="megan_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", required=True, help="the model to read")
    parser.add_argument("--target", required=True, help="the folder to make")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--base", action="store_true", help="hf: leave the hypernetwork of a MeGan model out"
    )
    how.add_argument(
        "--merged", action="store_true", help="hf: fold modulations in, where their kind allows it"
    )
    options = parser.parse_args(argv)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        arguments = (options.source, options.target, options.format, options.base, options.merged)
        if is_run_folder(options.source):
            # Needs JAX, which the other formats do without.
            from megan_jax.convert.run import convert_run

            count = convert_run(*arguments)
        else:
            tensors = convert(*arguments).tensors.values()
            count = sum(math.prod(tensor.shape) for tensor in tensors)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{options.target}: written as {options.format} (source: {count:,} parameters).")
    return 0


def _stop(*_) -> NoReturn:
    # Unwinds, so that the half-written folder is removed.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
