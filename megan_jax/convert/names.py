"""The one table between stored tensor names (Hugging Face, MeGan) and the parameter tree.

The table is read in both directions: `build` fills a tree from stored tensors, `stored_tensors`
describes a tree as tensors to be written. Linear maps are stored `[out, in]` and held `[in, out]`;
the tree stacks layers on axis 0.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from megan_jax.convert.tensors import FLOAT_DTYPES, LazyTensor, identical, transpose_into, widest
from megan_jax.errors import UserError
from megan_jax.hypernet.config import HypernetConfig
from megan_jax.models.config import LlamaConfig

LeafPath = tuple[str, ...]
_MOST_LISTED = 10
_SHARED = "model.shared_hyper_style2beta"
_SHARED_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.mlp\.hyper_style2beta\.(.+)")
_BUFFERS = ("rotary_emb.inv_freq",)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A stored tensor, or one per layer, and the leaves of the tree that it fills.

    Attributes:
      name: the stored name; `{}` is the layer where there is one tensor per layer.
      shape: the stored shape.
      leaves: paths in the tree; several share the first stored axis in equal parts.
      leaf_shape: of each leaf, without the layer axis.
      transpose: whether the leaf is the transposed tensor (linear maps).
      layers: L where there is one tensor per layer, else None.
    """

    name: str
    shape: tuple[int, ...]
    leaves: tuple[LeafPath, ...]
    leaf_shape: tuple[int, ...]
    transpose: bool = False
    layers: int | None = None

    def names(self) -> list[str]:
        return [self.name.format(i) for i in range(self.layers)] if self.layers else [self.name]


def _linear(
    name: str,
    path: LeafPath,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    bias: bool,
    layers: int | None,
) -> Iterator[Stored]:
    ins, outs = math.prod(inputs), math.prod(outputs)
    kernel, vector = (*path, "kernel"), (*path, "bias")
    yield Stored(f"{name}.weight", (outs, ins), (kernel,), inputs + outputs, True, layers)
    if bias:
        yield Stored(f"{name}.bias", (outs,), (vector,), outputs, False, layers)


def target_table(config: LlamaConfig) -> list[Stored]:
    """The stored tensors of the target network; paths start with "target"."""
    d, f, v, n = (
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        config.num_hidden_layers,
    )
    heads = (config.num_attention_heads, config.head_dim)
    kv_heads = (config.num_key_value_heads, config.head_dim)
    layer, path = "model.layers.{}", ("target", "layers")
    table = [
        Stored(
            "model.embed_tokens.weight", (v, d), (("target", "embed_tokens", "embedding"),), (v, d)
        )
    ]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        leaf = (*path, norm, "scale")
        table.append(Stored(f"{layer}.{norm}.weight", (d,), (leaf,), (d,), layers=n))
    for block, name, inputs, outputs, bias in (
        ("self_attn", "q_proj", (d,), heads, config.attention_bias),
        ("self_attn", "k_proj", (d,), kv_heads, config.attention_bias),
        ("self_attn", "v_proj", (d,), kv_heads, config.attention_bias),
        ("self_attn", "o_proj", heads, (d,), config.attention_bias),
        ("mlp", "gate_proj", (d,), (f,), config.mlp_bias),
        ("mlp", "up_proj", (d,), (f,), config.mlp_bias),
        ("mlp", "down_proj", (f,), (d,), config.mlp_bias),
    ):
        stored, leaf = f"{layer}.{block}.{name}", (*path, block, name)
        table += _linear(stored, leaf, inputs, outputs, bias, n)
    table.append(Stored("model.norm.weight", (d,), (("target", "norm", "scale"),), (d,)))
    if not config.tie_word_embeddings:
        table += _linear("lm_head", ("target", "lm_head"), (d,), (v,), False, None)
    return table


def hyper_table(config: LlamaConfig, hypernet: HypernetConfig | None) -> list[Stored]:
    """The stored tensors of the hypernetwork under the reference's names; paths start with "hyper".

    Raises:
      UserError: a variant for which the reference has no names.
    """
    if hypernet is None or hypernet.kind == "none":
        return []
    if hypernet.kind not in ("shared", "layerwise"):
        raise UserError(
            f"hypernet.kind {hypernet.kind!r} has no tensors in the reference's checkpoints; only "
            "'shared' and 'layerwise' can be read from and written to one."
        )
    shared = hypernet.kind == "shared"
    layers = None if shared else config.num_hidden_layers
    prefix = _SHARED if shared else "model.layers.{}.mlp"
    d, a = config.hidden_size, hypernet.attention_width(config.hidden_size)
    table: list[Stored] = []
    attention = f"{prefix}.style_attention"
    if hypernet.width:
        for name in ("query_proj", "key_proj", "value_proj"):
            table += _linear(f"{attention}.{name}", ("hyper", name), (d,), (a,), True, layers)
        attention += ".attention"
    parts = [("hyper", "attention", part) for part in ("query", "key", "value")]
    kernels = tuple((*part, "kernel") for part in parts)
    biases = tuple((*part, "bias") for part in parts)
    table += [
        Stored(f"{attention}.in_proj_weight", (3 * a, a), kernels, (a, a), True, layers),
        Stored(f"{attention}.in_proj_bias", (3 * a,), biases, (a,), False, layers),
    ]
    out = ("hyper", "attention", "out")
    table += _linear(f"{attention}.out_proj", out, (a,), (a,), True, layers)
    if shared:
        shape = (config.num_hidden_layers, a)
        leaf = ("hyper", "layer_embeddings", "embedding")
        table.append(Stored(f"{prefix}.layer_embeddings.weight", shape, (leaf,), shape))
    # The reference's Sequential alternates linear maps (even places) with tanh (odd places).
    for index, (inputs, outputs) in enumerate(beta_widths(config, hypernet)):
        stored, leaf = f"{prefix}.beta_generator.{2 * index}", ("hyper", f"beta_layers_{index}")
        table += _linear(stored, leaf, (inputs,), (outputs,), hypernet.bias, layers)
    return table


def beta_widths(config: LlamaConfig, hypernet: HypernetConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of the β layers: R→R … R→F with a reduced width, D→F, F→F … without."""
    a, f = hypernet.attention_width(config.hidden_size), config.intermediate_size
    hidden = [a if hypernet.width else f] * (hypernet.beta_layers - 1)
    widths = [a, *hidden, f]
    return list(itertools.pairwise(widths))


def match(
    config: LlamaConfig,
    hypernet: HypernetConfig | None,
    tensors: Mapping[str, LazyTensor],
    where: str,
) -> dict[str, LazyTensor]:
    """Picks the tensors that the configs ask for, each once, and refuses any difference.

    The reference stores a shared hypernetwork once more under every layer, and tied models may
    store their head: equal copies are ignored, differing ones refused. Rotary buffers are ignored.

    Args:
      where: the folder or file, for messages.

    Raises:
      UserError: tensors that are missing, unexpected, of another shape, or not floating point.
    """
    if config.num_hidden_layers > len(tensors):
        raise UserError(
            f"{where}: the config says {config.num_hidden_layers} layers, the weights are only "
            f"{len(tensors)} tensors."
        )
    table = target_table(config) + hyper_table(config, hypernet)
    wanted = {name: entry.shape for entry in table for name in entry.names()}
    shared = hypernet is not None and hypernet.kind == "shared"
    found: dict[str, LazyTensor] = {}
    problems: list[str] = []
    for name, tensor in tensors.items():
        plain = _plain_name(name, config, shared)
        if plain.endswith(_BUFFERS):
            continue
        if plain not in wanted:
            problems.append(f"{name}: unexpected, found {list(tensor.shape)}")
        elif tensor.shape != wanted[plain]:
            expected = list(wanted[plain])
            problems.append(f"{name}: expected {expected}, found {list(tensor.shape)}")
            found.setdefault(plain, tensor)
        elif tensor.dtype not in FLOAT_DTYPES:
            problems.append(f"{name}: {tensor.stored} is not a floating-point type that is read")
            found.setdefault(plain, tensor)
        elif plain in found and not identical(found[plain], tensor):
            problems.append(f"{name}: differs from its other copy, {found[plain].name}")
        else:
            found.setdefault(plain, tensor)
    missing = [name for name in wanted if name not in found]
    problems += [f"{name}: missing, expected {list(wanted[name])}" for name in missing]
    if problems:
        raise UserError(_describe(where, problems))
    return {name: dataclasses.replace(found[name], name=name) for name in wanted}


def _plain_name(name: str, config: LlamaConfig, shared: bool) -> str:
    if name == "lm_head.weight" and config.tie_word_embeddings:
        return "model.embed_tokens.weight"
    copy = _SHARED_IN_LAYER.fullmatch(name) if shared else None
    if copy and int(copy[1]) < config.num_hidden_layers:
        return f"{_SHARED}.{copy[2]}"
    return name


def _describe(where: str, problems: Sequence[str]) -> str:
    count = len(problems)
    lines = [f"{where}: the config does not fit the weights ({count} tensor(s) differ):"]
    lines += [f"  {problem}" for problem in problems[:_MOST_LISTED]]
    if count > _MOST_LISTED:
        lines.append(f"  … and {count - _MOST_LISTED} more")
    lines.append("Use the config.json that was saved with these weights.")
    return "\n".join(lines)


def build(
    table: Sequence[Stored],
    tensors: Mapping[str, LazyTensor],
    dtype: Callable[[np.dtype], np.dtype],
) -> dict[str, Any]:
    """Fills a nested dict of arrays; each stacked array is allocated once and filled by layers.

    Args:
      table: from `target_table` and `hyper_table`.
      tensors: from `match`.
      dtype: maps the dtype in which a leaf is stored (the widest over its layers) to the dtype in
        which it is wanted.
    """
    tree: dict[str, Any] = {}
    for entry in table:
        names = entry.names()
        wanted = dtype(widest({tensors[name].dtype for name in names}))
        lead = () if entry.layers is None else (entry.layers,)
        leaves = [np.empty(lead + entry.leaf_shape, wanted) for _ in entry.leaves]
        for layer, name in enumerate(names):
            # The stored values may be a view of the file: this makes the only copy.
            for leaf, part in zip(leaves, np.split(tensors[name].read(), len(leaves)), strict=True):
                into = leaf if entry.layers is None else leaf[layer]
                if entry.transpose:
                    transpose_into(into.reshape(part.shape[::-1]), part)
                else:
                    into[...] = part.reshape(entry.leaf_shape)
        for path, leaf in zip(entry.leaves, leaves, strict=True):
            _put(tree, path, leaf)
    return tree


def _put(tree: dict[str, Any], path: LeafPath, leaf: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf


@dataclasses.dataclass(frozen=True)
class Described:
    """A tensor to be written: `read` computes its values when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def stored_tensors(table: Sequence[Stored], params: Mapping[str, Any]) -> list[Described]:
    """Describes a parameter tree as stored tensors, each once; the inverse of `build`.

    Raises:
      UserError: leaves that are missing, left over, or of another shape than the table's.
    """
    leaves = dict(_leaves(params))
    expected = {
        path: (() if entry.layers is None else (entry.layers,)) + entry.leaf_shape
        for entry in table
        for path in entry.leaves
    }
    problems = []
    for path in {**expected, **leaves}:
        found = tuple(leaves[path].shape) if path in leaves else None
        if found != expected.get(path):
            there = "nothing" if found is None else list(found)
            wanted = "nothing" if path not in expected else list(expected[path])
            problems.append(f"{'/'.join(path)}: expected {wanted}, found {there}")
    if problems:
        raise UserError(_describe("parameters", problems))
    described = []
    for entry in table:
        arrays = [leaves[path] for path in entry.leaves]
        dtype = widest({np.dtype(array.dtype) for array in arrays})
        for layer, name in enumerate(entry.names()):
            read = functools.partial(_stored_values, entry, arrays, layer, dtype)
            described.append(Described(name, entry.shape, dtype, read))
    return described


def _leaves(tree: Mapping[str, Any], path: LeafPath = ()) -> Iterator[tuple[LeafPath, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _stored_values(entry: Stored, arrays: Sequence[Any], layer: int, dtype: np.dtype) -> np.ndarray:
    out = np.empty(entry.shape, dtype)
    for array, part in zip(arrays, np.split(out, len(arrays)), strict=True):
        values = np.asarray(array if entry.layers is None else array[layer])
        if entry.transpose:
            transpose_into(part, values.reshape(part.shape[::-1]))
        else:
            part[...] = values.reshape(part.shape)
    return out
