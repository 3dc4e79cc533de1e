"""Everything a training run needs, built from its configuration and placed on the device mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from megan_jax import config as configs
from megan_jax import loading
from megan_jax.data.batch import Batch
from megan_jax.errors import UserError
from megan_jax.models.model import Model, Params
from megan_jax.models.rotary import check_length
from megan_jax.parallel.axes import AxisRules, make_mesh
from megan_jax.training import optimizer as optimizers
from megan_jax.training import trainable as filters
from megan_jax.training.step import State


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A model under training.

    Attributes:
      config: the resolved configuration.
      base: what the run starts from (its parameters on the host).
      model: target network and hypernetwork.
      mesh, rules: where things lie.
      frozen: the parameters that are not trained and come from the base model, on the mesh.
      optimizer, rate: optax's, and its learning rate per step.
      init_state: makes the state before the first step.
      abstract_state: its shapes, dtypes and shardings.
    """

    config: ConfigDict
    base: loading.Base
    model: Model
    mesh: Mesh
    rules: AxisRules
    frozen: Params
    optimizer: optax.GradientTransformation
    rate: optax.Schedule
    init_state: Callable[[], State]
    abstract_state: State

    def put(self, batch: Batch) -> Batch:
        """Places this process's rows of a global batch on the mesh."""
        return placer(self.mesh, self.rules)(batch)

    def params(self, state: State) -> Params:
        """All parameters of the model under training."""
        return filters.join(self.frozen, state.fixed, state.trainable)

    def original_target(self, state: State) -> Params | None:
        """The base model's parameters if training changes the target network, else None."""
        return {"target": self.base.params["target"]} if "target" in state.trainable else None


def placer(mesh: Mesh, rules: AxisRules) -> Callable[[Batch], Batch]:
    """Returns the function that places this process's rows of a global batch on the mesh."""
    rows = NamedSharding(mesh, rules.spec(("act_batch", "act_length")))
    conditions = NamedSharding(mesh, rules.spec(("act_batch", "act_condition")))

    def put(batch: Batch) -> Batch:
        placed = {}
        for field in dataclasses.fields(Batch):
            value = getattr(batch, field.name)
            where = conditions if field.name in ("condition_tokens", "condition_ids") else rows
            placed[field.name] = (
                None
                if value is None
                else jax.make_array_from_process_local_data(where, np.asarray(value))
            )
        return Batch(**placed)

    return put


def check_batch(size: int, mesh: Mesh, key: str) -> None:
    """Refuses a batch whose rows do not divide over the mesh.

    Raises:
      UserError: naming the key and the next size that fits.
    """
    parts = mesh.shape["replica"] * mesh.shape["fsdp"]
    if size % parts:
        fits = -(-size // parts) * parts
        raise UserError(
            f"config.{key} is {size}, but the mesh spreads rows over {parts} devices "
            f"(replica × fsdp): use a multiple of {parts}, for example {fits}."
        )


def build(config: ConfigDict) -> Experiment:
    """Loads the base model, initialises the hypernetwork, and lays both out.

    Raises:
      UserError: whatever does not fit together.
    """
    mesh = make_mesh({axis: config.mesh[axis] for axis in config.mesh if axis != "rules"})
    rules = configs.axis_rules(config)
    check_batch(config.train.batch_size // config.train.microbatches, mesh, "train.batch_size")
    precision = loading.precision(config)
    base = loading.load_base(config.model, precision.compute, config.tokenizer.path)
    check_length(base.config, config.data.row_length)
    hypernet = configs.hypernet_config(config)
    if base.hypernet is not None and not config.hypernet_from:
        hypernet = _same_shape(base.hypernet, hypernet, config.model)
    model = Model(base.config, hypernet, precision)
    where = loading.shardings(model, mesh, rules)
    target = loading.place({"target": base.params["target"]}, where)
    started = _hyper_start(config, base, model)

    def init_hyper() -> Params:
        key = jax.random.key(config.seed)
        return nn.unbox(model.init_hyper(key)) if model.hypernet is not None else {}

    abstract = {"target": target["target"]}
    if model.hypernet is not None:
        shapes = jax.eval_shape(init_hyper)
        abstract["hyper"] = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where["hyper"]
        )
    # The reference never trained its layer embeddings, whatever else it trained.
    held = ("hyper/layer_embeddings/.*",) if config.compat.freeze_layer_embeddings else ()
    chosen, rest = filters.split(abstract, config.train.trainable, held)
    rate = optimizers.learning_rate(
        config.optimizer.learning_rate,
        config.train.steps,
        config.optimizer.warmup_ratio,
        config.optimizer.schedule,
    )
    o = config.optimizer
    optimizer = optimizers.adamw(
        rate,
        b1=o.b1,
        b2=o.b2,
        eps=o.eps,
        weight_decay=o.weight_decay,
        clip_norm=o.clip_norm,
    )

    def create(target: Params) -> State:
        params = dict(target)
        if model.hypernet is not None:
            params["hyper"] = init_hyper() if started is None else started
        mine, others = filters.split(params, config.train.trainable, held)
        mine = jax.tree.map(lambda x: x.astype(jnp.float32), mine)
        fixed = {"hyper": others["hyper"]} if "hyper" in others else {}
        return State.create(mine, optimizer, fixed)

    trained_target = {"target": chosen["target"]} if "target" in chosen else {}
    seeds = filters.join(target) if trained_target else {"target": target["target"]}
    placed = _state_shardings(create, seeds, where, mesh, optimizer, config, held)

    def init_state() -> State:
        return jax.jit(create, out_shardings=placed)(seeds)

    shapes = jax.eval_shape(create, seeds)
    abstract_state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )
    frozen = {"target": rest["target"]} if "target" in rest else {}
    return Experiment(
        config=config,
        base=base,
        model=model,
        mesh=mesh,
        rules=rules,
        frozen=frozen,
        optimizer=optimizer,
        rate=rate,
        init_state=init_state,
        abstract_state=abstract_state,
    )


def _state_shardings(
    create: Callable[[Params], State],
    seeds: Params,
    where: Params,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    held: tuple[str, ...],
) -> State:
    shapes = jax.eval_shape(create, seeds)
    everywhere = NamedSharding(mesh, PartitionSpec())
    mine, others = filters.split(where, config.train.trainable, held)
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        shapes.opt_state,
        mine,
        transform_non_params=lambda _: everywhere,
    )
    return State(
        step=everywhere,
        trainable=mine,
        opt_state=moments,
        fixed={"hyper": others["hyper"]} if "hyper" in others else {},
    )


def _same_shape(stored: Any, wanted: Any, source: str) -> Any:
    names = ("kind", "width", "heads", "bias", "beta_layers")
    differing = [name for name in names if getattr(stored, name) != getattr(wanted, name)]
    if differing:
        listed = ", ".join(
            f"{name}: {getattr(stored, name)!r} there, {getattr(wanted, name)!r} configured"
            for name in differing
        )
        raise UserError(
            f"{source} brings a hypernetwork of another shape ({listed}). Configure the same "
            "shape, or convert the base model alone and start anew."
        )
    return wanted


def _hyper_start(config: ConfigDict, base: loading.Base, model: Model) -> Params | None:
    """Parameters to start the hypernetwork from, or None for random ones."""
    if model.hypernet is None:
        return None
    source, found = config.model, base.params.get("hyper")
    if config.hypernet_from:
        source = config.hypernet_from
        found = loading.load_model(source).params.get("hyper")
        if found is None:
            raise UserError(f"config.hypernet_from: {source} has no hypernetwork.")
    if found is None:
        return None
    wanted = jax.tree.map(lambda x: x.shape, model.abstract()["hyper"])
    if jax.tree.map(lambda x: tuple(x.shape), found) != wanted:
        raise UserError(
            f"config.hypernet_from: the hypernetwork of {source} has another shape than "
            "config.hypernet and the base model ask for. Use the configuration it was trained with."
        )
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), found)
