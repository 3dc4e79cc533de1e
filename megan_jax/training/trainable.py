"""Which parameters a method trains: a path filter that splits one pytree into two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from megan_jax.errors import UserError

Tree = dict[str, Any]


def split(params: Tree, patterns: Sequence[str], frozen: Sequence[str] = ()) -> tuple[Tree, Tree]:
    """Splits `params` into (trainable, rest), two nested dictionaries.

    Args:
      params: a nested dictionary of arrays; `target/norm/scale` is the path of a leaf.
      patterns: regular expressions; a leaf whose whole path matches one is trainable.
      frozen: paths matching one of these are not, whatever `patterns` says.

    Raises:
      UserError: a broken expression, or no leaf that matches.
    """
    flat = flatten_dict(params, sep="/")
    for pattern in [*patterns, *frozen]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"config.train.trainable: {pattern!r}: {error}.") from error

    def chosen(path: str) -> bool:
        return any(re.fullmatch(p, path) for p in patterns) and not any(
            re.fullmatch(p, path) for p in frozen
        )

    trainable = {path: leaf for path, leaf in flat.items() if chosen(path)}
    if not trainable:
        raise UserError(
            f"config.train.trainable {tuple(patterns)} matches no parameter. Paths look like "
            f"{', '.join(list(flat)[-3:])}."
        )
    rest = {path: leaf for path, leaf in flat.items() if path not in trainable}
    return unflatten_dict(trainable, sep="/"), unflatten_dict(rest, sep="/")


def join(*trees: Tree) -> Tree:
    """Puts trees with disjoint leaves together again."""
    flat: dict[str, Any] = {}
    for tree in trees:
        flat.update(flatten_dict(tree, sep="/"))
    return unflatten_dict(flat, sep="/")
