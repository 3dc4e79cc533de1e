"""The split of a parameter tree by path."""

from __future__ import annotations

import pytest

from megan_jax.errors import UserError
from megan_jax.training.trainable import join, split
from tests.models.tiny import leaves

TREE = {
    "target": {"norm": {"scale": 1}, "layers": {"mlp": {"kernel": 2, "bias": 3}}},
    "hyper": {"layer_embeddings": {"embedding": 4}, "beta_layers_0": {"kernel": 5}},
}


@pytest.mark.parametrize(
    ("patterns", "frozen", "chosen"),
    [
        (["hyper/.*"], [], {4, 5}),
        (["hyper/.*"], ["hyper/layer_embeddings/.*"], {5}),
        ([".*"], [], {1, 2, 3, 4, 5}),
        (["target/.*", "hyper/beta.*"], [".*/bias"], {1, 2, 5}),
        # The whole path must match, so that `hyper` alone is nobody.
        (["target/norm/scale", "hyper"], [], {1}),
    ],
)
def test_split(patterns, frozen, chosen):
    trainable, rest = split(TREE, patterns, frozen)
    assert {int(leaf) for leaf in leaves(trainable).values()} == chosen
    assert {int(leaf) for leaf in leaves(rest).values()} == {1, 2, 3, 4, 5} - chosen
    assert join(rest, trainable) == join(trainable, rest) == TREE


def test_refusals():
    with pytest.raises(UserError, match=r"matches no parameter. Paths look like .*beta_layers_0"):
        split(TREE, ["hypr/.*"])
    with pytest.raises(UserError, match="matches no parameter"):
        split(TREE, ["hyper/.*"], ["hyper/.*"])
    with pytest.raises(UserError, match=r"config.train.trainable: '\[': unterminated"):
        split(TREE, ["hyper/.*", "["])
    with pytest.raises(UserError, match="matches no parameter"):
        split(TREE, [])
