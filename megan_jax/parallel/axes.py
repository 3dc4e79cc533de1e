"""Names of logical axes, and the one table that maps them onto the device mesh.

Parameters and activations name what their axes *are*; `AxisRules` says where each kind of axis
lies. Changing how a run is sharded is a matter of this table and of the mesh shape alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from megan_jax.errors import UserError, nearest

MESH_AXES = ("replica", "fsdp", "tensor", "context")

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """Where every logical axis lies on the mesh; None means replicated.

    Parameter axes are `layers`, `vocab`, `embed`, `mlp`, `heads`, `kv_heads`, `head_dim`, `hyper`
    and `hyper_heads`; activation axes begin with `act_`.
    """

    layers: MeshAxes = None
    vocab: MeshAxes = "tensor"
    embed: MeshAxes = "fsdp"
    mlp: MeshAxes = "tensor"
    heads: MeshAxes = "tensor"
    kv_heads: MeshAxes = "tensor"
    head_dim: MeshAxes = None
    hyper: MeshAxes = None
    hyper_heads: MeshAxes = None
    act_batch: MeshAxes = ("replica", "fsdp")
    act_length: MeshAxes = "context"
    act_key_length: MeshAxes = None
    act_condition: MeshAxes = None
    act_embed: MeshAxes = None
    act_mlp: MeshAxes = "tensor"
    act_heads: MeshAxes = "tensor"
    act_kv_heads: MeshAxes = "tensor"
    act_hyper: MeshAxes = None
    act_vocab: MeshAxes = "tensor"

    @classmethod
    def from_mapping(cls, rules: Mapping[str, MeshAxes]) -> AxisRules:
        """Builds the rules from a config section.

        Raises:
          UserError: an unknown logical axis, or one mapped onto a mesh axis that does not exist.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        checked: dict[str, MeshAxes] = {}
        for name, value in rules.items():
            if name not in known:
                raise UserError(f"mesh.rules.{name}: no such logical axis.{nearest(name, known)}")
            axes = (value,) if isinstance(value, str) else tuple(value or ())
            for axis in axes:
                if axis not in MESH_AXES:
                    raise UserError(
                        f"mesh.rules.{name}: {axis!r} is not a mesh axis "
                        f"({', '.join(MESH_AXES)}).{nearest(axis, MESH_AXES)}"
                    )
            checked[name] = None if not axes else axes[0] if len(axes) == 1 else axes
        return cls(**checked)

    def pairs(self) -> list[tuple[str, MeshAxes]]:
        """The rules in Flax's form."""
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]

    def spec(self, axes: Sequence[str | None]) -> PartitionSpec:
        """The partition of an array whose axes have these logical names.

        Raises:
          UserError: two of the axes lie on the same mesh axis.
        """
        placed = [None if axis is None else getattr(self, axis) for axis in axes]
        used = [
            part
            for place in placed
            for part in ((place,) if isinstance(place, str) else place or ())
        ]
        for part in used:
            if used.count(part) > 1:
                names = ", ".join(str(axis) for axis in axes)
                raise UserError(
                    f"mesh.rules: an array with the axes ({names}) would be split along mesh axis "
                    f"{part!r} twice; map one of them elsewhere."
                )
        return PartitionSpec(*placed)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out along `MESH_AXES`.

    Args:
      shape: the size of each mesh axis; one of them may be -1, "the rest".
      devices: the devices; all of them by default.

    Raises:
      UserError: sizes that do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [int(shape.get(axis, 1)) for axis in MESH_AXES]
    described = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh: sizes are positive, at most one is -1; got {described}.")
    known = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes:
        if len(devices) % known:
            raise UserError(f"mesh: {described} does not divide {len(devices)} devices.")
        sizes[sizes.index(-1)] = len(devices) // known
    elif known != len(devices):
        raise UserError(
            f"mesh: {described} makes {known} devices, but {len(devices)} are here. Set one size "
            "to -1 to take the rest."
        )
    return jax.make_mesh(
        tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices
    )


@contextlib.contextmanager
def on_mesh(mesh: Mesh, rules: AxisRules) -> Iterator[None]:
    """Traces and runs the body on `mesh`, with logical axes placed by `rules`."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules.pairs()):
        yield


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Names the axes of an activation; a no-op outside `on_mesh`."""
    return nn.with_logical_constraint(x, axes)


def batch_sharding(mesh: Mesh, rules: AxisRules) -> NamedSharding:
    """How a [B, ...] batch lies on the mesh."""
    return NamedSharding(mesh, rules.spec(("act_batch",)))


def round_up_rows(rows: int) -> int:
    """The least number of rows, at least `rows`, that the current mesh splits evenly."""
    mesh = jax.sharding.get_abstract_mesh()
    (place,) = nn.logical_to_mesh_axes(("act_batch",)) if nn.get_logical_axis_rules() else (None,)
    axes = (place,) if isinstance(place, str) else place or ()
    parts = math.prod(mesh.shape.get(axis, 1) for axis in axes)
    return -(-rows // parts) * parts
