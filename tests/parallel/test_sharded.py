"""Loss and gradients on eight virtual devices equal those on one."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from megan_jax.data.batch import assemble
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.parallel.axes import AxisRules, batch_sharding, make_mesh, on_mesh
from megan_jax.training.loss import loss_fn, totals
from tests.models.tiny import (
    assert_trees_close,
    draw_condition,
    draw_segment,
    quick_jit,
    random_params,
    tiny_model,
)

# D, F, N, K, V and B divide by the axes they lie on.
MODEL = tiny_model(
    HypernetConfig(width=8, bias=True, penalty="l2", penalty_weight=0.2),
    vocab_size=38,
    attention_bias=True,
)

# Float32 sums over a split axis are taken in another order: some 1e-6 of a gradient's norm.
ROUNDING = 1e-5


@functools.cache
def case():
    rng = np.random.default_rng(0)
    conditions = [draw_condition(rng, 3), draw_condition(rng, 4)]
    rows = [
        [draw_segment(rng, 3 + row % 4, conditions[row % 2]), draw_segment(rng, 5)]
        for row in range(8)
    ]
    return random_params(MODEL), assemble(rows, 12, 5)


def run(mesh, rules: AxisRules):
    """Loss and gradients on a mesh, parameters and batch placed by the rules."""
    params, batch = case()
    shardings = jax.tree.map(
        lambda axes: NamedSharding(mesh, rules.spec(axes)),
        MODEL.logical_axes(),
        is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec),
    )
    params = jax.device_put(params, shardings)
    batch = jax.device_put(batch, batch_sharding(mesh, rules))

    def loss(params, batch):
        return loss_fn(MODEL, params, batch, totals(MODEL, batch), 64)[0]

    with on_mesh(mesh, rules):
        value, grads = quick_jit(jax.value_and_grad(loss))(params, batch)
        return value, grads, params


@functools.cache
def single():
    value, grads, _ = run(make_mesh({}, jax.devices()[:1]), AxisRules())
    return float(value), jax.device_get(grads)


@pytest.mark.parametrize(
    "shape",
    [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"replica": 2, "fsdp": 2, "tensor": 2}],
    ids=lambda shape: "_".join(f"{axis}{size}" for axis, size in shape.items()),
)
def test_loss_and_gradients_equal_one_device(shape: dict[str, int]):
    value, grads, params = run(make_mesh(shape), AxisRules())
    wanted, wanted_grads = single()
    assert float(value) == pytest.approx(wanted, rel=1e-6)
    assert_trees_close(grads, wanted_grads, ROUNDING)
    # The weights really lay apart.
    kernel = params["target"]["layers"]["mlp"]["gate_proj"]["kernel"]
    pieces = shape["fsdp"] * shape.get("tensor", 1)
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // pieces}


def test_other_rules_give_the_same():
    """Changing how a run is sharded is a matter of the table alone."""
    rules = AxisRules.from_mapping({"mlp": (), "act_mlp": (), "hyper": "tensor", "act_length": ()})
    value, grads, params = run(make_mesh({"fsdp": 4, "tensor": 2}), rules)
    assert float(value) == pytest.approx(single()[0], rel=1e-6)
    assert_trees_close(grads, single()[1], ROUNDING)
    kernel = params["hyper"]["query_proj"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 4)}
