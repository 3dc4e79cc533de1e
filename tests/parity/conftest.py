"""Where the recorded cases of the reference lie, and what of them must be there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from megan_jax.convert.names import hyper_table, stored_tensors, target_table
from megan_jax.models.model import Model

COMMITTED = Path(__file__).parent / "cases"


def cases_root() -> Path:
    """`MEGAN_PARITY_DIR` if set, else the committed cases."""
    return Path(os.environ.get("MEGAN_PARITY_DIR") or COMMITTED)


def model_cases() -> list[Path]:
    """Folders with a config and a recording, whatever their names; `training` apart."""
    root = cases_root()
    if not root.is_dir():
        return []
    return sorted(
        path.parent for path in root.glob("*/golden.npz") if path.parent.name != "training"
    )


def reference_tensors(model: Model, params: dict) -> dict[str, np.ndarray]:
    """A parameter tree, or a gradient of its shape, under the reference's names."""
    table = [*target_table(model.config), *hyper_table(model.config, model.hypernet_config)]
    return {tensor.name: tensor.read() for tensor in stored_tensors(table, params)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", model_cases(), ids=lambda path: path.name)


@pytest.fixture
def part():
    """Returns a function that finds a part of the cases by name, or ends the test naming it."""

    def find(name: str) -> Path:
        path = cases_root() / name
        if not path.exists():
            message = f"{cases_root()} has no {name}"
            if os.environ.get("MEGAN_PARITY_DIR"):
                pytest.skip(f"{message}: that part of the comparison was not run")
            pytest.fail(f"{message}; the committed cases must be whole")
        return path

    return find
