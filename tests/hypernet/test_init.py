"""Parameter counts and the statistics of both initialisations."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from flax import linen as nn

from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import PRESETS
from megan_jax.models.model import Model
from tests.models.tiny import leaves, quick_jit, tiny_model


def hyper_count(preset: str, **fields) -> tuple[int, int]:
    """Parameters of the hypernetwork without its layer embeddings, and those."""
    model = Model(PRESETS[preset], HypernetConfig(**fields))
    abstract = jax.eval_shape(model.init_hyper, jax.random.key(0))
    flat = {
        jax.tree_util.keystr(path): math.prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
    }
    embeddings = sum(size for path, size in flat.items() if "layer_embeddings" in path)
    return sum(flat.values()) - embeddings, embeddings


@pytest.mark.parametrize(
    ("preset", "width", "shared", "embeddings", "layerwise"),
    [
        ("llama-3.1-8b", 128, 3_474_304, 4_096, 111_177_728),
        ("llama-3.1-8b", 512, 14_683_648, 16_384, 469_876_736),
        ("llama-3.1-8b", 0, 125_845_504, 131_072, 4_027_056_128),
        ("llama-3.2-1b", 128, 1_901_440, 2_048, 30_423_040),
        ("llama-3.2-1b", 512, 8_392_192, 8_192, 134_275_072),
    ],
)
def test_parameter_counts_of_the_paper_settings(preset, width, shared, embeddings, layerwise):
    assert hyper_count(preset, width=width) == (shared, embeddings)
    assert hyper_count(preset, kind="layerwise", width=width) == (layerwise, 0)
    f = PRESETS[preset].intermediate_size
    assert hyper_count(preset, width=width, bias=True)[0] == shared + f


def test_counts_of_deeper_beta_layers():
    d, f, r = 16, 20, 8
    for width, extra in ((r, r * r), (0, f * f)):
        shallow = tiny_model(HypernetConfig(width=width)).abstract()["hyper"]
        deep = tiny_model(HypernetConfig(width=width, beta_layers=3)).abstract()["hyper"]
        sizes = [sum(math.prod(x.shape) for x in jax.tree.leaves(t)) for t in (deep, shallow)]
        assert sizes[0] - sizes[1] == 2 * extra
        first = d if not width else r
        last = deep["beta_layers_2"]["kernel"].shape
        assert deep["beta_layers_0"]["kernel"].shape == (first, r if width else f)
        assert last == (r if width else f, f)


def initial(seed: int = 0, **fields) -> dict[str, np.ndarray]:
    """The hypernetwork's start for D = 192, F = 320, L = 4."""
    model = tiny_model(
        HypernetConfig(**fields), hidden_size=192, intermediate_size=320, num_hidden_layers=4
    )
    return leaves(nn.unbox(quick_jit(model.init_hyper)(jax.random.key(seed))))


def test_reference_start():
    flat = initial(init="reference", width=128, bias=True)
    xavier = math.sqrt(6 / (4 * 128))
    for path, value in flat.items():
        if path.endswith("bias"):
            assert not value.any(), path
        elif path in (f"attention/{name}/kernel" for name in ("query", "key", "value")):
            # Uniform within the limit of the stacked [3A, A] matrix.
            assert np.abs(value).max() <= xavier
            assert np.abs(value).max() > 0.99 * xavier
            assert value.std() == pytest.approx(xavier / math.sqrt(3), rel=0.02)
        else:
            assert value.std() == pytest.approx(0.02, rel=0.1), path
            assert abs(value.mean()) < 0.002, path


def test_fan_in_start():
    flat = initial(init="fan_in", width=128, bias=True, beta_layers=2)
    wanted = {
        "query_proj/kernel": 192**-0.5,
        "key_proj/kernel": 192**-0.5,
        "value_proj/kernel": 192**-0.5,
        **{f"attention/{n}/kernel": 128**-0.5 for n in ("query", "key", "value", "out")},
        "beta_layers_0/kernel": 128**-0.5,
        "beta_layers_1/kernel": 0.1 * 128**-0.5,
        "layer_embeddings/embedding": 0.02,
    }
    kernels = {path: value for path, value in flat.items() if not path.endswith("bias")}
    assert sorted(kernels) == sorted(wanted)
    for path, value in kernels.items():
        assert value.std() == pytest.approx(wanted[path], rel=0.1), path
    assert all(not value.any() for path, value in flat.items() if path.endswith("bias"))


def test_layers_of_layerwise_start_differently():
    flat = initial(kind="layerwise", width=16)
    for path, value in flat.items():
        assert value.shape[0] == 4, path
        if path.endswith("kernel"):
            assert (value[0] != value[1]).mean() > 0.99, path


def test_static_starts_at_the_base_model():
    assert not initial(kind="static")["logits"].any()


def test_the_start_depends_on_the_key_alone():
    first, same, other = (initial(width=8, seed=seed) for seed in (3, 3, 4))
    for path, value in first.items():
        np.testing.assert_array_equal(value, same[path])
        if path.endswith("kernel"):
            assert (value != other[path]).any(), path
