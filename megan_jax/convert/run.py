"""Run folders to disk in other programs' formats."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from megan_jax.convert.save import save_hf, save_megan_torch
from megan_jax.errors import UserError
from megan_jax.hypernet.merge import merge_modulation
from megan_jax.loading import load_run


def convert_run(
    source: str | Path, target: str | Path, form: str, base: bool = False, merged: bool = False
) -> int:
    """Writes the newest checkpoint of a run, tokenizer included; all of it or nothing.

    Args:
      source: the run folder.
      target: a folder that does not exist yet.
      form: "hf" (the target network) or "megan-torch" (with the hypernetwork).
      base: accept that "hf" leaves the hypernetwork out.
      merged: fold the gates into the weights, which only the static variant allows.

    Returns:
      How many parameters were written.

    Raises:
      UserError: no run, a hypernetwork that the format can't hold, an unwritable target.
    """
    loaded = load_run(source)
    tokenizer = loaded.tokenizer
    params: dict[str, Any] = jax.tree.map(np.asarray, loaded.params)
    steered = loaded.model.hypernet is not None
    if form == "megan-torch":
        if not steered:
            raise UserError(f"{source}: has no hypernetwork; write it with --format hf.")
        if base or merged:
            raise UserError("--merged and --base belong to --format hf.")
        save_megan_torch(target, loaded.model.config, loaded.model.hypernet_config, params)
    else:
        if merged and steered:
            tokens = jnp.zeros((1, 1), jnp.int32)
            modulation = loaded.model.modulate(params, tokens, tokens + 1)
            params["target"] = jax.tree.map(
                np.asarray, merge_modulation(params["target"], modulation)
            )
        elif steered and not base:
            raise UserError(
                f"{source}: --format hf can't hold the hypernetwork. Use --format megan-torch to "
                "keep it, or add --base to write the target network alone."
            )
        save_hf(target, loaded.model.config, params["target"])
        params = {"target": params["target"]}
    try:
        tokenizer.save(Path(target))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return sum(leaf.size for leaf in jax.tree.leaves(params))
