"""Weights in and out: Hugging Face, GGUF and MeGan (PyTorch) models."""

from megan_jax.convert.load import Loaded, Source, fingerprint, load, open_model
from megan_jax.convert.save import save_hf, save_megan_torch

__all__ = [
    "Loaded",
    "Source",
    "fingerprint",
    "load",
    "open_model",
    "save_hf",
    "save_megan_torch",
]
