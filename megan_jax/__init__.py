"""megan_jax: steering a frozen language model by conditions written in plain text.

    import megan_jax
    model, params = megan_jax.from_pretrained("runs/quickstart")
    tokenizer = megan_jax.load_tokenizer("runs/quickstart")
    megan_jax.generate_text(model, params, tokenizer, "Write a short passage.", "verse by Milton")

Names are loaded when they are first used, so that `import megan_jax` is quick and leaves the
choice of platform to the importing program.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "HypernetConfig": "megan_jax.hypernet.config",
    "LlamaConfig": "megan_jax.models.config",
    "Model": "megan_jax.models.model",
    "Modulation": "megan_jax.hypernet.modulation",
    "UserError": "megan_jax.errors",
    "from_pretrained": "megan_jax.pretrained",
    "generate_text": "megan_jax.pretrained",
    "load_tokenizer": "megan_jax.pretrained",
    "save_pretrained": "megan_jax.pretrained",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_EXPORTS]
