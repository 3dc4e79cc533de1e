"""Models from disk and to disk: the same bits back, the same fingerprint, and clear refusals."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from megan_jax.convert import fingerprint, load, save, save_hf, save_megan_torch
from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from tests.convert.builders import write_state_dict
from tests.convert.models import CASES, CONFIG, leaves, random_tensors, write_folder

RECORDED = sorted(path.parent for path in CASES.glob("*/golden.npz"))


def same_bits(a: dict, b: dict) -> None:
    first, second = leaves(a), leaves(b)
    assert set(first) == set(second)
    for name, array in first.items():
        other = np.asarray(second[name])
        assert (np.asarray(array).dtype, array.shape) == (other.dtype, other.shape), name
        assert np.asarray(array).tobytes() == other.tobytes(), name


@pytest.mark.parametrize("case", RECORDED, ids=lambda path: path.name)
@pytest.mark.parametrize("shard", [30_000, 10**9])
def test_megan_models_come_back_bit_for_bit(tmp_path, case, shard):
    model = load(case)
    save_megan_torch(tmp_path / "out", model.config, model.hypernet, model.params, shard)
    again = load(tmp_path / "out")
    assert (again.config, again.hypernet) == (model.config, model.hypernet)
    same_bits(model.params, again.params)
    assert fingerprint(case) == fingerprint(tmp_path / "out")


def test_written_names_are_the_references_each_once(tmp_path):
    model = load(CASES / "shared_r")
    save_megan_torch(tmp_path / "out", model.config, model.hypernet, model.params)
    ours = load_file(tmp_path / "out" / "model.safetensors")
    theirs = load_file(CASES / "shared_r" / "model.safetensors")
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    recorded = json.loads((CASES / "shared_r" / "config.json").read_text())
    for key in recorded:
        if key.startswith("meta_swishglu"):
            assert written[key] == recorded[key]


def test_conventions_of_ours_survive_the_references_config(tmp_path):
    model = load(CASES / "shared_r")
    ours = dataclasses.replace(model.hypernet, condition_norm="rms", condition_length=48)
    save_megan_torch(tmp_path / "out", model.config, ours, model.params)
    assert load(tmp_path / "out").hypernet == ours


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_hugging_face_round_trip(tmp_path, dtype):
    tensors = {name: array.astype(dtype) for name, array in random_tensors(CONFIG).items()}
    model = load(write_folder(tmp_path / "in", tensors=tensors))
    assert model.hypernet is None
    assert set(model.params) == {"target"}
    save_hf(tmp_path / "out", model.config, model.params["target"], max_shard_bytes=9000)
    again = load(tmp_path / "out")
    assert again.config == model.config
    same_bits(model.params, again.params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(
        np.dtype(dtype)
    )


def test_jax_parameters_are_written_too(tmp_path):
    model = load(CASES / "layerwise_r")
    params = jax.tree.map(jnp.asarray, model.params)
    save_megan_torch(tmp_path / "out", model.config, model.hypernet, params)
    same_bits(model.params, load(tmp_path / "out").params)


def test_dtype_on_the_way_in(tmp_path):
    plain = leaves(load(CASES / "shared_r").params)
    cast = leaves(load(CASES / "shared_r", dtype=jnp.bfloat16).params)
    for name, array in plain.items():
        expected = array.astype(ml_dtypes.bfloat16) if name.startswith("target") else array
        assert cast[name].dtype == expected.dtype
        assert cast[name].tobytes() == expected.tobytes()


def test_parameters_do_not_hang_on_the_file(tmp_path):
    folder = write_folder(tmp_path / "m")
    params = load(folder).params
    before = {name: array.copy() for name, array in leaves(params).items()}
    data = (folder / "model.safetensors").read_bytes()
    with open(folder / "model.safetensors", "r+b") as file:
        file.write(b"\0" * len(data))
    for name, array in leaves(params).items():
        np.testing.assert_array_equal(array, before[name])


def sharded_bin(folder, index=True):
    tensors = random_tensors(CONFIG)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    order = sorted(tensors)
    places = {}
    for number in (1, 2):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        part = {name: tensors[name] for name in order[number - 1 :: 2]}
        write_state_dict(folder / file, part)
        places.update(dict.fromkeys(part, file))
    if index:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.parametrize("index", [True, False])
def test_sharded_pickles(tmp_path, index):
    got = load(sharded_bin(tmp_path / "bin", index)).params
    same_bits(got, load(write_folder(tmp_path / "safe")).params)
    assert fingerprint(tmp_path / "bin") == fingerprint(tmp_path / "safe")


def sharded(tmp_path):
    model = load(write_folder(tmp_path / "one"))
    save_hf(tmp_path / "m", model.config, model.params["target"], max_shard_bytes=20_000)
    return tmp_path / "m", tmp_path / "m" / "model.safetensors.index.json"


def test_a_missing_shard(tmp_path):
    folder, _ = sharded(tmp_path)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(UserError, match=f"{shards[1].name}: this shard is missing; the index pla"):
        load(folder)


@pytest.mark.parametrize("place", ["../one/model.safetensors", "/etc/passwd", "..", "", 7])
def test_an_index_that_points_outside(tmp_path, place):
    folder, index = sharded(tmp_path)
    fields = json.loads(index.read_text())
    fields["weight_map"]["lm_head.weight"] = place
    index.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"'lm_head\.weight' should be in .*not the name of a file"):
        load(folder)


def test_an_index_that_is_wrong(tmp_path):
    folder, index = sharded(tmp_path)
    fields = json.loads(index.read_text())
    fields["weight_map"]["lm_head.weight"] = fields["weight_map"]["model.norm.weight"]
    fields["weight_map"]["model.embed_tokens.weight"] = fields["weight_map"]["lm_head.weight"]
    index.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"has no tensor '.*', which .*index\.json places there"):
        load(folder)
    index.write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        load(folder)


def test_a_tensor_in_two_shards_without_an_index(tmp_path):
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    extra = {"lm_head.weight": np.zeros((40, 32), np.float32)}
    save_file(extra, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"holds 'lm_head\.weight', as model-00001"):
        load(folder)


def test_paths_that_are_no_model(tmp_path):
    with pytest.raises(UserError, match="there is no such file or folder"):
        load(tmp_path / "nothing" / "here")
    (tmp_path / "smollm").mkdir()
    with pytest.raises(UserError, match=r"no such file or folder\. Did you mean 'smollm'"):
        load(tmp_path / "smolm")
    with pytest.raises(UserError, match=r"has no config\.json, so it is not a model\.$"):
        load(tmp_path / "smollm")
    (tmp_path / "smollm" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="PEFT adapter"):
        load(tmp_path / "smollm")
    (tmp_path / "smollm" / "adapter_config.json").unlink()
    (tmp_path / "smollm" / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"Did you mean '.*x\.gguf'"):
        load(tmp_path / "smollm")
    (tmp_path / "smollm" / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    with pytest.raises(UserError, match="there are no weights in it"):
        load(tmp_path / "smollm")
    with pytest.raises(UserError, match="give the folder that holds them"):
        load(write_folder(tmp_path / "m") / "model.safetensors")
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a GGUF file"):
        load(tmp_path / "x.gguf")


def test_run_folders_need_the_hook(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="this is a run folder"):
        load(tmp_path)
    asked = []

    def open_run(path, dtype):
        asked.append((path, dtype))
        return "opened"

    assert load(tmp_path, np.float32, open_run=open_run) == "opened"
    assert asked == [(tmp_path, np.float32)]
    model = load(write_folder(tmp_path / "m"), open_run=open_run)
    assert model.config == CONFIG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"config\.json: not a JSON file in UTF-8"),
        (b"\xff\xfe", r"config\.json: not a JSON file in UTF-8"),
        (b"[]", r"config\.json: should be a JSON object, is a list"),
        (b"{}", r"In .*: config\.json: missing vocab_size"),
        (b'{"model_type": "qwen2"}', "In .*model_type is 'qwen2'"),
    ],
)
def test_a_config_that_is_none(tmp_path, text, message):
    folder = write_folder(tmp_path / "m")
    (folder / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": "32", "head_dim": None}, "In .*: config.json: hidden_size must be"),
        ({"num_attention_heads": 0, "head_dim": None}, "must be a positive integer"),
        ({"rope_scaling": 3}, "In .*: config.json: rope_scaling must be"),
        (
            {"meta_swishglu_shared_hyper": 1, "meta_swishglu_beta_hidden_dim": float("inf")},
            r"config\.json: a field has a value of the wrong type \(cannot convert float inf",
        ),
        ({"megan_jax_hypernet": 3}, "megan_jax_hypernet should be an object"),
        ({"megan_jax_hypernet": {"kinds": "shared"}}, "unknown key 'kinds'. Did you mean 'kind'"),
        ({"megan_jax_hypernet": {"kind": "shard"}}, "hypernet.kind is 'shard'"),
        ({"meta_swishglu_attn_key": "y"}, "meta_swishglu_attn_key is 'y'"),
        ({"meta_swishglu_attn_key": "x"}, r"shared_hyper|style_attention.*: missing"),
        ({"num_hidden_layers": 10**12}, "the config says 1000000000000 layers"),
    ],
)
def test_config_fields_of_the_wrong_kind(tmp_path, fields, message):
    folder = write_folder(tmp_path / "m", fields=fields)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_fingerprints_tell_models_apart(tmp_path):
    tensors = random_tensors(CONFIG)
    big = {**tensors, "model.embed_tokens.weight": np.zeros((4000, 32), np.float32)}
    big["lm_head.weight"] = np.ones((4000, 32), np.float32)
    large = dataclasses.replace(CONFIG, vocab_size=4000)
    plain = fingerprint(write_folder(tmp_path / "plain", large, big))
    shutil.copytree(tmp_path / "plain", tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == plain
    seen = {plain}
    small = big["model.layers.1.mlp.up_proj.weight"].copy()
    small[17, 5] += 1
    first = big["lm_head.weight"].copy()
    first[0, 0] += 1
    last = big["lm_head.weight"].copy()
    last[-1, -1] += 1
    for number, change in enumerate(
        (
            {"model.layers.1.mlp.up_proj.weight": small},
            {"lm_head.weight": first},
            {"lm_head.weight": last},
        )
    ):
        folder = write_folder(tmp_path / f"other{number}", large, {**big, **change})
        seen.add(fingerprint(folder))
    theta = dataclasses.replace(large, rope_theta=10000.0)
    seen.add(fingerprint(write_folder(tmp_path / "theta", theta, big)))
    assert len(seen) == 5


def test_a_fingerprint_reads_samples_only():
    blocks = load.__globals__["_sampled"](10**12)
    assert sum(end - begin for begin, end in blocks) == 64 * 1024
    assert (blocks[0][0], blocks[-1][1]) == (0, 10**12)


@pytest.mark.parametrize("kind", ["pooled", "static", "none"])
def test_variants_that_the_reference_lacks(tmp_path, kind):
    model = load(write_folder(tmp_path / "m"))
    with pytest.raises(UserError, match=f"'{kind}'"):
        save_megan_torch(tmp_path / "o", model.config, HypernetConfig(kind=kind), model.params)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_parameters_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    model = load(write_folder(tmp_path / "m"))
    other = dataclasses.replace(model.config, intermediate_size=65)
    with pytest.raises(UserError, match=r"target/layers/mlp/gate_proj/kernel: expected \[2, 32, 6"):
        save_hf(tmp_path / "o", other, model.params["target"])
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_nothing_is_overwritten(tmp_path):
    model = load(write_folder(tmp_path / "m"))
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    for there in (tmp_path / "m", tmp_path / "m" / "config.json"):
        with pytest.raises(UserError, match="exists already and is not an empty folder"):
            save_hf(there, model.config, model.params["target"])
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    (tmp_path / "empty").mkdir()
    save_hf(tmp_path / "empty", model.config, model.params["target"])
    same_bits(load(tmp_path / "empty").params, model.params)


@pytest.mark.parametrize(
    "stop", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_full_disk_or_an_interrupt_leaves_nothing(tmp_path, monkeypatch, stop):
    model = load(write_folder(tmp_path / "m"))

    def fail(file, tensor):
        file.write(b"half")
        raise stop

    monkeypatch.setattr("megan_jax.convert.safetensors_io._write_values", fail)
    expected = UserError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save_hf(tmp_path / "o", model.config, model.params["target"])
    if expected is UserError:
        assert "can't be written: No space left on device. Nothing was left" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_target_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UserError, match="can't be written: Not a directory"),
        save.new_folder(tmp_path / "file" / "out"),
    ):
        pass
