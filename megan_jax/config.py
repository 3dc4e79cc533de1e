"""Experiment configuration: defaults, experiment files, command-line overrides, checks.

An experiment file is Python with a function `get_config(arg="")` that takes `get_default()`,
changes a few keys and returns it. `--config FILE[:arg]` names it, `--config.key=value` changes
single keys on top. `megan_jax.config_keys` documents every key.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from megan_jax.config_keys import Key, all_keys
from megan_jax.errors import UserError, nearest
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.parallel.axes import AxisRules


def get_default() -> ConfigDict:
    """All keys with their defaults, locked: an unknown key raises where it is set."""
    config = ConfigDict()
    for name, key in all_keys().items():
        *sections, leaf = name.split(".")
        place = config
        for section in sections:
            if section not in place:
                place[section] = ConfigDict()
            place = place[section]
        place[leaf] = key.default
    return config.lock()


def load(source: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """Loads `FILE.py[:arg]` and applies overrides.

    Args:
      source: an experiment file, with an argument for its `get_config` after a colon; an empty
        string takes the defaults.
      overrides: `key=value` strings, keys dotted.

    Raises:
      UserError: a missing or broken file, an unknown key (the nearest is suggested), a value of
        the wrong type or out of its range.
    """
    config = _run_file(source) if source else get_default()
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--config.{name} needs a value: --config.{name}=VALUE.")
        set_key(config, name, text)
    validate(config)
    return config


def _run_file(source: str) -> ConfigDict:
    path, _, arg = source.partition(":")
    file = Path(path)
    if not file.is_file():
        found = sorted(file.parent.glob("*.py")) if file.parent.is_dir() else []
        hint = nearest(file.name, [other.name for other in found])
        raise UserError(f"--config: there is no experiment file {path!r}.{hint}")
    spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config: {path!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: has no function get_config(arg='').")
        config = module.get_config(arg)
    except UserError:
        raise
    except (AttributeError, KeyError) as error:
        # A locked ConfigDict refuses unknown keys with a message of its own.
        text = str(error.args[0]) if error.args else str(error)
        raise UserError(f"{path}: {text}") from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config must return the ConfigDict of get_default().")
    return config


def _parse(name: str, key: Key, text: str) -> Any:
    kind = type(key.default)
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise UserError(f"--config.{name}={text}: expected true or false.")
    if kind is tuple:
        return _parse_tuple(name, key, text.strip())
    try:
        return kind(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            number = None
        if kind is int and number is not None and number.is_integer():
            return int(number)
        noun = "an integer" if kind is int else "a number"
        raise UserError(f"--config.{name}={text}: expected {noun}.") from None


def _parse_tuple(name: str, key: Key, text: str) -> tuple[Any, ...]:
    members: Any = [part.strip() for part in text.split(",")] if text else []
    if text[:1] in ("(", "["):
        # A path or a pattern may begin with a bracket too: then it is what it looks like.
        with contextlib.suppress(ValueError, SyntaxError, TypeError):
            members = ast.literal_eval(text)
            members = members if isinstance(members, list | tuple) else [members]
    if key.element is str:
        return tuple(members)
    try:
        return tuple(key.element(member) for member in members)
    except (ValueError, TypeError):
        raise UserError(f"--config.{name}={text}: expected numbers between commas.") from None


def set_key(config: ConfigDict, name: str, text: str) -> None:
    """Sets one dotted key from its text.

    Raises:
      UserError: an unknown key, or text that is not of the key's type.
    """
    keys = all_keys()
    if name not in keys:
        if any(other.startswith(f"{name}.") for other in keys):
            raise UserError(f"--config.{name} is a section; set one of its keys.")
        raise UserError(f"--config.{name}: no such key.{_nearest_key(name)}")
    *sections, leaf = name.split(".")
    place = config
    for section in sections:
        place = place[section]
    place[leaf] = _parse(name, keys[name], text)


def _nearest_key(name: str) -> str:
    keys = all_keys()
    leaf = name.rsplit(".", 1)[-1]
    same_leaf = [other for other in keys if other.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return f" Did you mean {same_leaf[0]!r}?"
    return nearest(name, keys)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of all keys."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def to_json(config: ConfigDict) -> dict[str, Any]:
    """The resolved config as nested dictionaries of JSON values."""
    nested: dict[str, Any] = {}
    for name, value in flatten(config).items():
        *sections, leaf = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = list(value) if isinstance(value, tuple) else value
    return nested


def from_json(fields: Mapping[str, Any], where: str = "run.json") -> ConfigDict:
    """The inverse of `to_json`; keys that it lacks take their defaults.

    Raises:
      UserError: keys that this version does not know, or values of another type.
    """
    config = get_default()
    keys = all_keys()
    for name, value in flatten(fields).items():
        if name not in keys:
            raise UserError(f"{where}: config key {name!r} is unknown to this version.")
        *sections, leaf = name.split(".")
        place = config
        for section in sections:
            place = place[section]
        try:
            place[leaf] = tuple(value) if isinstance(value, list) else value
        except TypeError as error:
            kind = type(keys[name].default).__name__
            raise UserError(
                f"{where}: config key {name!r} must be of type {kind}, got {value!r}."
            ) from error
    return config


def validate(config: ConfigDict) -> None:
    """Checks every key's type, choices and range, and what several keys must agree on.

    Raises:
      UserError: naming the key and what it may be.
    """
    keys = all_keys()
    values = flatten(config)
    for name in values:
        if name not in keys:
            raise UserError(f"config.{name}: no such key.{_nearest_key(name)}")
    for name, key in keys.items():
        if name not in values:
            raise UserError(f"config.{name} is missing; start from megan_jax.config.get_default().")
        _check(name, key, values[name])
    hypernet_config(config)
    axis_rules(config)
    train, data = config.train, config.data
    if train.batch_size % train.microbatches:
        raise UserError(
            f"config.train.microbatches ({train.microbatches}) does not divide "
            f"config.train.batch_size ({train.batch_size})."
        )
    if data.condition_capacity < config.hypernet.condition_length:
        raise UserError(
            f"config.data.condition_capacity ({data.condition_capacity}) is below "
            f"config.hypernet.condition_length ({config.hypernet.condition_length}): a row must "
            "have room for one whole condition."
        )
    if data.type_weights and len(data.type_weights) != len(data.types):
        raise UserError(
            f"config.data.type_weights has {len(data.type_weights)} values for "
            f"{len(data.types)} entries of config.data.types."
        )


def _is_of(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _check(name: str, key: Key, value: Any) -> None:
    kind = type(key.default)
    if not _is_of(value, kind):
        raise UserError(
            f"config.{name} must be a {kind.__name__}, got {value!r} ({type(value).__name__})."
        )
    members = value if kind is tuple else (value,)
    for member in members:
        if kind is tuple and not _is_of(member, key.element):
            raise UserError(
                f"config.{name} must hold values of type {key.element.__name__}, got {member!r}."
            )
        if key.choices and member not in key.choices:
            allowed = ", ".join(repr(choice) for choice in key.choices)
            raise UserError(
                f"config.{name}: {member!r} is not one of {allowed}."
                f"{nearest(str(member), [str(choice) for choice in key.choices])}"
            )
        if isinstance(member, float) and not math.isfinite(member):
            raise UserError(f"config.{name} must be finite, got {member!r}.")
        if key.least is not None and member < key.least:
            raise UserError(f"config.{name} must be at least {key.least:g}, got {member!r}.")
        if key.most is not None and member > key.most:
            raise UserError(f"config.{name} must be at most {key.most:g}, got {member!r}.")


def hypernet_config(config: ConfigDict) -> HypernetConfig:
    """The hypernetwork that an experiment asks for."""
    h, compat = config.hypernet, config.compat
    return HypernetConfig(
        kind=h.kind,
        width=h.width,
        heads=1 if compat.reduced_heads and h.width else h.heads,
        bias=h.bias,
        beta_layers=h.beta_layers,
        start_layer=h.start_layer,
        init=h.init,
        condition_norm=h.condition_norm,
        condition_length=h.condition_length,
        divided_activation=compat.divided_activation,
        freeze_layer_embeddings=compat.freeze_layer_embeddings,
        penalty=h.penalty,
        penalty_weight=float(h.penalty_weight),
        penalty_reduction=h.penalty_reduction,
        penalty_includes_padding=compat.penalty_includes_padding,
    )


def axis_rules(config: ConfigDict) -> AxisRules:
    """The logical-axis rules that an experiment asks for."""
    return AxisRules.from_mapping({name: tuple(axes) for name, axes in config.mesh.rules.items()})
