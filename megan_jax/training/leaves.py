"""The leaves of a pytree by name, the form in which a checkpoint keeps and compares them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from megan_jax.errors import UserError

# Differing leaves that an error lists; the others are counted.
MOST_SHOWN = 8


def named_leaves(tree: Any) -> dict[str, Any]:
    """{"trainable/hyper/beta_layers_0/kernel": leaf, …}, in the order of the tree."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        raise ValueError("two leaves of the tree have the same name")
    # Orbax keeps Python numbers apart from arrays; here they are arrays like all others.
    return {
        name: leaf if hasattr(leaf, "dtype") and hasattr(leaf, "ndim") else np.asarray(leaf)
        for name, leaf in named.items()
    }


def nest(named: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `named_leaves`, with dicts for every kind of node."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def target_of(leaf: Any) -> jax.ShapeDtypeStruct:
    """The abstract form of a leaf; without a sharding of its own it goes to the first device."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def describe(leaves: Mapping[str, Any]) -> dict[str, str]:
    """{"trainable/…/kernel": "float32[64,576]"}"""
    return {
        name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in leaves.items()
    }


def parse(text: str) -> jax.ShapeDtypeStruct:
    """The inverse of `describe`, for one leaf."""
    dtype, shape = text.rstrip("]").split("[")
    return jax.ShapeDtypeStruct(tuple(map(int, filter(None, shape.split(",")))), dtype)


def check_leaves(saved: Mapping[str, str], wanted: Mapping[str, str], path: Path) -> None:
    """Compares two descriptions (see `describe`).

    Raises:
      UserError: naming the leaves that differ, parameters first, with both shapes.
    """
    differing = [
        f"  {name}: {saved.get(name, 'absent')} in the checkpoint, "
        f"{wanted.get(name, 'absent')} in this configuration"
        # The optimizer's copies of a parameter come after it: only the first few are shown.
        for name in sorted(
            saved.keys() | wanted.keys(), key=lambda n: (n.split("/")[0] != "trainable", n)
        )
        if saved.get(name) != wanted.get(name)
    ]
    if not differing:
        return
    more = len(differing) - MOST_SHOWN
    lines = differing[:MOST_SHOWN] + ([f"  … and {more} more"] if more > 0 else [])
    raise UserError(
        f"{path} was saved under another configuration:\n" + "\n".join(lines) + "\n"
        "Use the configuration of its run, or choose another --workdir."
    )
