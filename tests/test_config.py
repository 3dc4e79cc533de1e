"""The configuration: keys, overrides, experiment files, checks and the JSON round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from megan_jax import config as configs
from megan_jax import config_docs
from megan_jax.config_keys import SECTIONS, all_keys
from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.parallel.axes import MESH_AXES, AxisRules


def test_every_key_is_documented_and_its_default_allowed():
    for name, key in all_keys().items():
        assert key.help and len(key.help) > 9 and not key.help.endswith("."), name
        assert "\n" not in key.help, name
        assert isinstance(key.default, str | bool | int | float | tuple), name
    configs.validate(configs.get_default())


def test_the_documentation_is_current():
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text() == config_docs.markdown() + "\n", (
        "python -m megan_jax.config_docs > docs/configuration.md"
    )


def test_sections_are_complete():
    assert set(configs.flatten(configs.get_default())) == set(all_keys())
    assert set(SECTIONS["mesh"]) == set(MESH_AXES)
    fields = {name for name in AxisRules.__dataclass_fields__}
    assert set(SECTIONS["mesh.rules"]) == fields


def test_defaults_agree_with_the_classes_they_configure():
    config = configs.get_default()
    assert configs.hypernet_config(config) == HypernetConfig()
    assert configs.axis_rules(config) == AxisRules()


def test_every_compat_flag_of_the_hypernetwork_reaches_it():
    plain = HypernetConfig()
    for flag in ("divided_activation", "freeze_layer_embeddings", "penalty_includes_padding"):
        config = configs.load("", [f"compat.{flag}=true"])
        assert getattr(configs.hypernet_config(config), flag) != getattr(plain, flag)
    heads = ["hypernet.heads=4", "compat.reduced_heads=true"]
    assert configs.hypernet_config(configs.load("", heads)).heads == 1
    assert configs.hypernet_config(configs.load("", heads[:1])).heads == 4
    assert configs.hypernet_config(configs.load("", [*heads, "hypernet.width=0"])).heads == 4


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=12", 12),
        ("train.steps=1e3", 1000),
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("optimizer.learning_rate=1", 1.0),
        ("hypernet.bias=true", True),
        ("hypernet.bias=0", False),
        ("train.tensorboard=No", False),
        ("data.types=task,persona", ("task", "persona")),
        ("data.types=('task', 'style')", ("task", "style")),
        ("data.types=['task']", ("task",)),
        ("data.types=task", ("task",)),
        ("data.types=", ()),
        ("data.types=()", ()),
        ("data.train=/a/b.jsonl,/c.jsonl", ("/a/b.jsonl", "/c.jsonl")),
        ("data.train=2024", ("2024",)),
        ("train.trainable=hyper/.*,target/norm/.*", ("hyper/.*", "target/norm/.*")),
        ("train.trainable=[ht].*", ("[ht].*",)),
        ("model=a=b", "a=b"),
        ("data.system_prompt=", ""),
        ("mesh.rules.embed=fsdp,tensor", ("fsdp", "tensor")),
    ],
)
def test_overrides(override: str, value):
    config = configs.load("", [override])
    read = configs.flatten(config)[override.split("=", 1)[0]]
    assert read == value
    assert type(read) is type(value)


def test_weights_are_numbers():
    config = configs.load("", ["data.types=task,style", "data.type_weights=1,0.5"])
    assert config.data.type_weights == (1.0, 0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.setps=3"], r"--config.train.setps: no such key. Did you mean 'train.steps'\?"),
        (["sesd=3"], r"--config.sesd: no such key. Did you mean 'seed'\?"),
        (["steps=3"], r"--config.steps: no such key. Did you mean 'train.steps'\?"),
        (["hypernt.width=3"], r"no such key. Did you mean 'hypernet.width'\?"),
        (["zzz=3"], r"--config.zzz: no such key.$"),
        (["train=3"], r"--config.train is a section; set one of its keys"),
        (["mesh.rules=3"], r"--config.mesh.rules is a section"),
        (["train.steps"], r"--config.train.steps needs a value: --config.train.steps=VALUE"),
        (["train.steps=many"], r"--config.train.steps=many: expected an integer"),
        (["train.steps=1.5"], r"--config.train.steps=1.5: expected an integer"),
        (["train.steps=nan"], r"--config.train.steps=nan: expected an integer"),
        (["train.steps=0"], r"config.train.steps must be at least 1, got 0"),
        (["optimizer.eps=small"], r"--config.optimizer.eps=small: expected a number"),
        (["optimizer.learning_rate=nan"], r"config.optimizer.learning_rate must be finite"),
        (["optimizer.learning_rate=inf"], r"config.optimizer.learning_rate must be finite"),
        (["optimizer.learning_rate=-1"], r"must be at least 0, got -1.0"),
        (["optimizer.warmup_ratio=1.5"], r"config.optimizer.warmup_ratio must be at most 1"),
        (["hypernet.bias=2"], r"--config.hypernet.bias=2: expected true or false"),
        (
            ["hypernet.kind=shard"],
            r"config.hypernet.kind: 'shard' is not one of 'shared', .* Did you mean 'shared'\?",
        ),
        (["data.types=task,tsk"], r"config.data.types: 'tsk' is not one of .*mean 'task'\?"),
        (["data.train=(1, 2)"], r"config.data.train must hold values of type str, got 1"),
        (["data.type_weights=a,b"], r"--config.data.type_weights=a,b: expected numbers"),
        (["data.types=task", "data.type_weights=-1"], r"type_weights must be at least 0, got -1"),
        (["data.types=task", "data.type_weights=nan"], r"type_weights must be finite, got nan"),
        (["data.types=task", "data.type_weights=1,2"], r"2 values for 1 entries of .*data.types"),
        (["train.microbatches=3"], r"microbatches \(3\) does not divide .*batch_size \(8\)"),
        (["data.condition_capacity=63"], r"condition_capacity \(63\) is below .*\(64\)"),
        (["hypernet.heads=3"], r"hypernet.width \(64\) is not a multiple of hypernet.heads \(3\)"),
        (["mesh.rules.embed=tensr"], r"config.mesh.rules.embed: 'tensr' .* mean 'tensor'\?"),
    ],
)
def test_refused_overrides(overrides: list[str], message: str):
    with pytest.raises(UserError, match=message):
        configs.load("", overrides)


def experiment(folder: Path, body: str) -> str:
    file = folder / "some.py"
    file.write_text(body)
    return str(file)


GOOD = """
from megan_jax.config import get_default

def get_config(arg=""):
    config = get_default()
    config.train.steps = int(arg or 7)
    config.data.types = ["task", "style"]
    config.optimizer.learning_rate = 1
    return config
"""


def test_experiment_file(tmp_path: Path):
    source = experiment(tmp_path, GOOD)
    config = configs.load(source)
    assert config.train.steps == 7
    assert config.data.types == ("task", "style")
    assert config.optimizer.learning_rate == 1.0
    # The argument, and the command line on top.
    assert configs.load(f"{source}:9").train.steps == 9
    assert configs.load(f"{source}:9", ["train.steps=11"]).train.steps == 11
    assert configs.load("") == configs.get_default()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1", r"some.py: has no function get_config\(arg=''\)"),
        ("def get_config(arg='')", r"some.py: SyntaxError: .*line 1"),
        ("import no_such_module", r"some.py: ModuleNotFoundError: .*no_such_module"),
        ("def get_config(arg=''): return 1 / 0", r"some.py: ZeroDivisionError: division"),
        ("def get_config(arg=''): return {}", r"some.py: get_config must return the ConfigDict"),
        ("def get_config(): return None", r"some.py: TypeError: get_config\(\) takes 0"),
        (
            GOOD.replace("train.steps", "train.stpes"),
            r"some.py: .*\"stpes\" does not exist.*(?s:.*)Did you mean \"steps\"",
        ),
        (GOOD.replace("int(arg or 7)", "'many'"), r"some.py: TypeError: .*'steps'"),
        (GOOD.replace('"style"', '"styl"'), r"config.data.types: 'styl' is not .* mean 'style'"),
        (GOOD.replace("int(arg or 7)", "0"), r"config.train.steps must be at least 1, got 0"),
        (
            GOOD.replace("return config", "return type(config)({'seed': 1})"),
            r"config.model is missing; start from megan_jax.config.get_default",
        ),
        (
            GOOD.replace("return config", "config.unlock(); config.a_key = 1; return config"),
            r"config.a_key: no such key",
        ),
    ],
)
def test_broken_experiment_files(tmp_path: Path, body: str, message: str):
    with pytest.raises(UserError, match=message):
        configs.load(experiment(tmp_path, body))


def test_missing_experiment_files(tmp_path: Path):
    experiment(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"no experiment file '.*soem.py'. Did you mean 'some.py'"):
        configs.load(str(tmp_path / "soem.py"))
    with pytest.raises(UserError, match=r"no experiment file '.*/nowhere/x.py'.$"):
        configs.load(str(tmp_path / "nowhere" / "x.py"))
    with pytest.raises(UserError, match="no experiment file"):
        configs.load(str(tmp_path))
    other = tmp_path / "some.txt"
    other.write_text("x")
    with pytest.raises(UserError, match="is not a Python file"):
        configs.load(str(other))


def test_a_locked_default_refuses_new_keys():
    config = configs.get_default()
    with pytest.raises(AttributeError, match="learning_rat"):
        config.optimizer.learning_rat = 1.0
    assert config.optimizer.learning_rate != 1.0


@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(0, 1),
    bias=st.booleans(),
    types=st.lists(st.sampled_from(["task", "style", "domain"]), unique=True),
    prompt=st.text(),
)
def test_json_round_trip(steps, rate, bias, types, prompt):
    config = configs.get_default()
    config.train.steps, config.optimizer.learning_rate = steps, rate
    config.hypernet.bias, config.data.system_prompt = bias, prompt
    config.data.types = tuple(types)
    read = configs.from_json(json.loads(json.dumps(configs.to_json(config))))
    assert isinstance(read, ConfigDict)
    assert configs.flatten(read) == configs.flatten(config)
    assert read.is_locked
    configs.validate(read)


def test_json_of_another_version():
    assert configs.from_json({"train": {"steps": 3}}).train.steps == 3
    assert configs.from_json({}) == configs.get_default()
    with pytest.raises(UserError, match=r"old.json: config key 'train.epochs' is unknown"):
        configs.from_json({"train": {"epochs": 3}}, where="old.json")
    with pytest.raises(UserError, match=r"run.json: config key 'train' is unknown"):
        configs.from_json({"train": 3})
    with pytest.raises(UserError, match=r"run.json: config key 'train.steps' must be of type int"):
        configs.from_json({"train": {"steps": "x"}})
