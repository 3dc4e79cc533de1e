"""The table of names: every leaf where it belongs, and every difference named."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from megan_jax.convert import load, names, open_model
from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import PRESETS
from tests.convert.builders import write_state_dict
from tests.convert.models import CASES, CONFIG, hf_shapes, leaves, random_tensors, write_folder

BIASED = dataclasses.replace(
    CONFIG, head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
)


@pytest.mark.parametrize("config", [CONFIG, BIASED, *PRESETS.values()])
def test_target_names_and_shapes_are_hugging_faces(config):
    table = names.target_table(config)
    ours = {name: entry.shape for entry in table for name in entry.names()}
    assert ours == hf_shapes(config)
    assert sum(int(np.prod(shape)) for shape in ours.values()) == config.parameter_count


@pytest.mark.parametrize("config", [CONFIG, BIASED])
def test_projections_compute_what_hugging_face_computes(tmp_path, config):
    tensors = random_tensors(config)
    layers = load(write_folder(tmp_path / "m", config, tensors)).params["target"]["layers"]
    random = np.random.default_rng(5)
    for i in range(config.num_hidden_layers):
        x = random.normal(size=(3, config.hidden_size)).astype(np.float32)
        attention = layers["self_attn"]
        for part in ("q_proj", "k_proj", "v_proj"):
            stored = f"model.layers.{i}.self_attn.{part}"
            expected = x @ tensors[f"{stored}.weight"].T + tensors.get(f"{stored}.bias", 0)
            got = np.einsum("td,dnh->tnh", x, attention[part]["kernel"][i])
            got = got + attention[part]["bias"][i] if config.attention_bias else got
            heads = expected.reshape(3, -1, config.head_dim)
            np.testing.assert_allclose(got, heads, rtol=1e-4, atol=1e-4)
        mixed = random.normal(size=(3, config.num_attention_heads, config.head_dim))
        expected = mixed.reshape(3, -1) @ tensors[f"model.layers.{i}.self_attn.o_proj.weight"].T
        got = np.einsum("tnh,nhd->td", mixed, attention["o_proj"]["kernel"][i])
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        for part in ("gate_proj", "up_proj"):
            expected = x @ tensors[f"model.layers.{i}.mlp.{part}.weight"].T
            got = x @ layers["mlp"][part]["kernel"][i]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_attention_of_the_hypernetwork_is_split_in_three(tmp_path):
    stored = load_file(CASES / "shared_r" / "model.safetensors")
    prefix = "model.shared_hyper_style2beta.style_attention.attention"
    hyper = load(CASES / "shared_r").params["hyper"]
    for i, part in enumerate(("query", "key", "value")):
        rows = slice(16 * i, 16 * (i + 1))
        kernel, bias = hyper["attention"][part]["kernel"], hyper["attention"][part]["bias"]
        np.testing.assert_array_equal(kernel, stored[f"{prefix}.in_proj_weight"][rows].T)
        np.testing.assert_array_equal(bias, stored[f"{prefix}.in_proj_bias"][rows])
    out = stored[f"{prefix}.out_proj.weight"]
    np.testing.assert_array_equal(hyper["attention"]["out"]["kernel"], out.T)


@pytest.mark.parametrize(
    ("hypernet", "expected"),
    [
        (dict(width=16, beta_layers=1), [(16, 64)]),
        (dict(width=16, beta_layers=3), [(16, 16), (16, 16), (16, 64)]),
        (dict(width=0, beta_layers=1), [(32, 64)]),
        (dict(width=0, beta_layers=3), [(32, 64), (64, 64), (64, 64)]),
    ],
)
def test_widths_of_beta_layers(hypernet, expected):
    config = HypernetConfig(**hypernet, bias=True)
    assert names.beta_widths(CONFIG, config) == expected
    stored = {
        name: entry.shape
        for entry in names.hyper_table(CONFIG, config)
        for name in entry.names()
        if "beta_generator" in name
    }
    for i, (inputs, outputs) in enumerate(expected):
        prefix = f"model.shared_hyper_style2beta.beta_generator.{2 * i}"
        assert stored.pop(f"{prefix}.weight") == (outputs, inputs)
        assert stored.pop(f"{prefix}.bias") == (outputs,)
    assert not stored


@pytest.mark.parametrize("kind", ["pooled", "static"])
def test_variants_without_names(kind):
    with pytest.raises(UserError, match=f"hypernet.kind '{kind}' has no tensors in the ref"):
        names.hyper_table(CONFIG, HypernetConfig(kind=kind))


def test_kind_none_and_no_hypernetwork_have_no_tensors():
    assert names.hyper_table(CONFIG, None) == []
    assert names.hyper_table(CONFIG, HypernetConfig(kind="none")) == []


def test_differences_are_named_with_both_shapes(tmp_path):
    tensors = random_tensors(CONFIG)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_norm.weight"] = np.zeros(8, np.float32)
    tensors["lm_head.weight"] = np.zeros((41, 32), np.float32)
    tensors["model.norm.weight"] = np.zeros(32, np.int64)
    folder = write_folder(tmp_path / "m", tensors=tensors)
    with pytest.raises(UserError) as caught:
        open_model(folder)
    message = str(caught.value)
    assert f"{folder}: the config does not fit the weights (4 tensor(s) differ)" in message
    assert "model.layers.1.mlp.up_proj.weight: missing, expected [64, 32]" in message
    assert "model.layers.0.self_attn.q_norm.weight: unexpected, found [8]" in message
    assert "lm_head.weight: expected [40, 32], found [41, 32]" in message
    assert "model.norm.weight: I64 is not a floating-point type" in message


def test_a_long_list_is_cut_and_counted(tmp_path):
    other = dataclasses.replace(CONFIG, intermediate_size=48, num_hidden_layers=5)
    folder = write_folder(tmp_path / "m", tensors=random_tensors(other))
    with pytest.raises(UserError) as caught:
        open_model(folder)
    lines = str(caught.value).splitlines()
    assert "(33 tensor(s) differ)" in lines[0]
    assert lines[-2] == "  … and 23 more"
    assert len(lines) == 13


def test_rotary_buffers_are_ignored(tmp_path):
    tensors = random_tensors(CONFIG)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    source = open_model(write_folder(tmp_path / "m", tensors=tensors))
    assert set(source.tensors) == set(hf_shapes(CONFIG))


def test_a_tied_model_may_store_its_head(tmp_path):
    tied = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    tensors = random_tensors(tied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    params = load(write_folder(tmp_path / "m", tied, tensors)).params["target"]
    assert "lm_head" not in params
    tensors["lm_head.weight"][3, 3] += 1
    with pytest.raises(UserError, match=r"differs from its other copy, (lm_head|model\.embed)"):
        open_model(write_folder(tmp_path / "n", tied, tensors))


def megan_bin(folder, change=None, drop=None):
    """`shared_r` as the reference writes it: the hypernetwork again under every layer."""
    tensors = load_file(CASES / "shared_r" / "model.safetensors")
    own = "model.shared_hyper_style2beta."
    for name in [name for name in tensors if name.startswith(own)]:
        for layer in range(3):
            copy = f"model.layers.{layer}.mlp.hyper_style2beta.{name.removeprefix(own)}"
            tensors[copy] = tensors[name].copy()
    if change:
        tensors[change].reshape(-1)[0] += 1
    if drop:
        tensors = {name: array for name, array in tensors.items() if not name.startswith(drop)}
    folder.mkdir()
    (folder / "config.json").write_bytes((CASES / "shared_r" / "config.json").read_bytes())
    write_state_dict(folder / "pytorch_model.bin", tensors)
    return folder


@pytest.mark.parametrize("drop", [None, "model.shared_hyper_style2beta."])
def test_copies_under_every_layer_are_one_hypernetwork(tmp_path, drop):
    got = leaves(load(megan_bin(tmp_path / "m", drop=drop)).params)
    expected = leaves(load(CASES / "shared_r").params)
    assert set(got) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name])


def test_a_copy_that_differs_is_refused(tmp_path):
    name = "model.layers.2.mlp.hyper_style2beta.beta_generator.0.weight"
    with pytest.raises(UserError, match=r"layers\.2\.mlp.*: differs from its other copy"):
        open_model(megan_bin(tmp_path / "m", change=name))


def test_stored_tensors_refuses_a_tree_that_does_not_fit():
    table = names.target_table(CONFIG)
    tree = {"target": {"norm": {"scale": np.zeros(31)}, "extra": np.zeros(2)}}
    with pytest.raises(UserError) as caught:
        names.stored_tensors(table, tree)
    message = str(caught.value)
    assert "target/embed_tokens/embedding: expected [40, 32], found nothing" in message
    assert "parameters: the config does not fit the weights (" in message
    tree = {"target": {"norm": {"scale": np.zeros(31)}, "extra": np.zeros(2)}}
    with pytest.raises(UserError, match=r"target/norm/scale: expected \[32\], found \[31\]"):
        names.stored_tensors([table[-2]], tree)
    with pytest.raises(UserError, match=r"target/extra: expected nothing, found \[2\]"):
        names.stored_tensors([table[-2]], tree)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((np.float16, np.float16), np.float16),
        ((np.float16, ml_dtypes.bfloat16), np.float32),
        ((np.float32, ml_dtypes.bfloat16), np.float32),
        ((np.float64, ml_dtypes.bfloat16), np.float64),
    ],
)
def test_layers_of_different_types_take_the_wider(tmp_path, dtypes, expected):
    tensors = random_tensors(CONFIG)
    name = "model.layers.{}.mlp.up_proj.weight"
    for i, dtype in enumerate(dtypes):
        tensors[name.format(i)] = tensors[name.format(i)].astype(dtype)
    layers = load(write_folder(tmp_path / "m", tensors=tensors)).params["target"]["layers"]
    kernel = layers["mlp"]["up_proj"]["kernel"]
    assert kernel.dtype == expected
    for i in range(2):
        np.testing.assert_array_equal(kernel[i].T, tensors[name.format(i)].astype(expected))
