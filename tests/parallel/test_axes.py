"""Logical axes, the rules that place them, and the mesh."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import PRESETS
from megan_jax.models.model import Model
from megan_jax.parallel.axes import (
    MESH_AXES,
    AxisRules,
    batch_sharding,
    constrain,
    make_mesh,
    on_mesh,
)
from tests.models.tiny import random_params, tiny_model

KNOWN = {field.name for field in dataclasses.fields(AxisRules)}
HYPERNETS = {
    "shared": HypernetConfig(width=8, bias=True, beta_layers=3),
    "shared_full": HypernetConfig(width=0, bias=True, beta_layers=2),
    "layerwise": HypernetConfig(kind="layerwise", width=8, bias=True, beta_layers=2),
    "pooled": HypernetConfig(kind="pooled", width=8),
    "static": HypernetConfig(kind="static"),
}


def by_path(tree) -> dict[str, object]:
    flat = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
    )
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


@pytest.mark.parametrize("kind", HYPERNETS)
def test_every_parameter_names_its_axes(kind: str):
    model = tiny_model(HYPERNETS[kind], attention_bias=True, mlp_bias=True)
    axes, shapes = by_path(model.logical_axes()), by_path(model.abstract())
    assert sorted(axes) == sorted(shapes)
    sizes = {"layers": 3, "vocab": 37, "embed": 16, "mlp": 20, "heads": 4, "kv_heads": 2}
    for path, names in axes.items():
        shape = shapes[path].shape
        assert len(names) == len(shape), path
        assert any(names) or path.endswith("['bias']"), path
        for name, size in zip(names, shape, strict=True):
            assert name is None or name in KNOWN, path
            assert sizes.get(name, size) == size, f"{path}: {name} of size {size}"
        # A mesh axis may split one axis of an array, whatever `hyper` is mapped onto.
        given = [name for name in names if name]
        assert len(given) == len(set(given)), path
        AxisRules().spec(names)


def test_the_big_matrices_are_split_both_ways():
    rules, axes = AxisRules(), by_path(Model(PRESETS["llama-3.1-8b"]).logical_axes())
    # Norm scales aside, whatever has D in it is spread over fsdp and its other side over tensor.
    for path, names in axes.items():
        spec = rules.spec(names)
        if not path.endswith("['scale']"):
            assert {"fsdp", "tensor"} <= set(spec), path


def test_rules_from_a_mapping():
    rules = AxisRules.from_mapping(
        {"embed": ("fsdp", "tensor"), "mlp": (), "vocab": "tensor", "heads": ("context",)}
    )
    assert rules.embed == ("fsdp", "tensor")
    assert rules.mlp is None
    assert rules.heads == "context"
    assert rules.spec(("embed", None, "mlp")) == PartitionSpec(("fsdp", "tensor"), None, None)
    assert AxisRules.from_mapping({}) == AxisRules()
    assert dict(rules.pairs())["embed"] == ("fsdp", "tensor")
    assert len(rules.pairs()) == len(KNOWN)


def test_rules_refuse():
    with pytest.raises(UserError, match=r"mesh.rules.embd: no such logical axis.* mean 'embed'"):
        AxisRules.from_mapping({"embd": "fsdp"})
    with pytest.raises(
        UserError, match=r"mesh.rules.embed: 'fdsp' is not a mesh axis \(replica.*mean 'fsdp'\?"
    ):
        AxisRules.from_mapping({"embed": ("tensor", "fdsp")})
    collision = AxisRules.from_mapping({"mlp": ("fsdp",)})
    with pytest.raises(UserError, match=r"axes \(embed, mlp\) would be split .* 'fsdp' twice"):
        collision.spec(("embed", "mlp"))


def test_mesh_shapes():
    assert len(jax.devices()) == 8
    assert dict(make_mesh({"fsdp": -1}).shape) == dict(zip(MESH_AXES, (1, 8, 1, 1), strict=True))
    assert make_mesh({"fsdp": -1, "tensor": 2}).devices.shape == (1, 4, 2, 1)
    assert make_mesh({"replica": 2, "fsdp": 2, "tensor": 2}).size == 8
    assert make_mesh({"fsdp": -1}, jax.devices()[:1]).size == 1
    assert make_mesh({}, jax.devices()[3:4]).devices.item() == jax.devices()[3]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"fsdp": 3}, r"fsdp=3, .* makes 3 devices, but 8 are here. Set one size to -1"),
        ({"tensor": 3, "fsdp": -1}, r"tensor=3, .* does not divide 8 devices"),
        ({"fsdp": 0}, r"sizes are positive, at most one is -1; got .*fsdp=0"),
        ({"fsdp": -2}, r"sizes are positive, at most one is -1; got .*fsdp=-2"),
        ({"fsdp": -1, "tensor": -1}, r"at most one is -1; got .*fsdp=-1, tensor=-1"),
    ],
)
def test_mesh_refuses(shape: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_mesh(shape)


def test_a_batch_lies_over_replica_and_fsdp():
    mesh = make_mesh({"replica": 2, "fsdp": 2, "tensor": 2})
    sharding = batch_sharding(mesh, AxisRules())
    placed = jax.device_put(jnp.zeros((8, 3)), sharding)
    assert sharding == NamedSharding(mesh, PartitionSpec(("replica", "fsdp")))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 3)}


def constraints(function, *args) -> int:
    return str(jax.make_jaxpr(function)(*args)).count("sharding_constraint")


def test_constraints_bind_on_a_mesh_and_only_there():
    x = jnp.zeros((8, 4))
    assert constraints(lambda x: constrain(x, "act_batch", None), x) == 0
    with on_mesh(make_mesh({"fsdp": -1}), AxisRules()):
        assert constraints(lambda x: constrain(x, "act_batch", None), x) == 1
        out = jax.jit(lambda x: constrain(x + 1, "act_batch", None))(x)
    assert {shard.data.shape for shard in out.addressable_shards} == {(1, 4)}


def test_one_device_takes_the_same_path():
    """The program of one device names its axes just as the program of eight."""
    model = tiny_model(HypernetConfig(width=8))
    params, tokens = random_params(model), jnp.ones((8, 5), jnp.int32)

    def logits(params):
        return model.apply(params, tokens, condition_ids=tokens).logits

    assert constraints(logits, params) == 0
    counts = []
    for devices in (jax.devices()[:1], jax.devices()):
        # A function of its own: traces are cached by function.
        with on_mesh(make_mesh({"fsdp": -1}, devices), AxisRules()):
            counts.append(constraints(lambda params: logits(params), params))
    assert counts[0] == counts[1] >= 8
