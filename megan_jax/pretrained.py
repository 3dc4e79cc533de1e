"""The public way in and out: load a model, let it speak under a condition, save it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from megan_jax.convert import save_hf, save_megan_torch
from megan_jax.data import tokenizers
from megan_jax.data.chat import encode_chat, stop_ids
from megan_jax.data.encode import encode_condition
from megan_jax.data.example import Message
from megan_jax.data.suite.fetch import base_model_path
from megan_jax.data.templates import DEFAULT_DATE
from megan_jax.data.tokenizers import Tokenizer, byte_tokenizer
from megan_jax.errors import UserError, nearest
from megan_jax.evaluation.decoding import Sampling, decode
from megan_jax.loading import EMBEDDED, PRETRAINED, PRETRAINED_RUN, TINY, load_model
from megan_jax.models.model import Model, Params

__all__ = ["from_pretrained", "generate_text", "load_tokenizer", "save_pretrained"]

FORMATS = ("hf", "megan-torch")

_log = logging.getLogger(__name__)


def from_pretrained(path: str | Path, dtype: Any = None) -> tuple[Model, Params]:
    """Loads a model and its parameters.

    Args:
      path: a run folder, a Hugging Face or MeGan (PyTorch) folder, a GGUF file, or the name
        `smollm2-135m-instruct` or `tiny-random`.
      dtype: of the target network; by default bfloat16 on accelerators and float32 on CPU.

    Raises:
      UserError: nothing there, or nothing that fits together.
    """
    loaded = load_model(path, dtype)
    return loaded.model, jax.tree.map(jnp.asarray, loaded.params)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Loads the tokenizer that belongs to whatever `from_pretrained` takes.

    Args:
      path: a name or path as there, or a tokenizer file.

    Raises:
      UserError: nothing there, or no tokenizer that can be read.
    """
    name = str(path)
    if name == TINY:
        return byte_tokenizer()
    if name == PRETRAINED:
        name = json.loads((PRETRAINED_RUN / "run.json").read_text())["config"]["model"]
    return tokenizers.load_tokenizer(base_model_path() if name == EMBEDDED else path)


def generate_text(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]] | str,
    condition: str | None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat_template: str | None = None,
    date: str = DEFAULT_DATE,
) -> str:
    """Answers a conversation under a condition.

    Args:
      model, params: from `from_pretrained`.
      tokenizer: from `load_tokenizer`.
      messages: `{"role": …, "content": …}` turns, or the user's text alone.
      condition: plain text; None runs the base model.
      max_new_tokens: the most tokens to generate.
      temperature: 0 decodes greedily.
      top_p: mass of the most likely tokens that are drawn from.
      seed: of the sampling.
      chat_template: `llama3`, `llama2`, `chatml` or Jinja2; the tokenizer's own by default. A run
        wants the one that it was trained with, `tokenizer.chat_template` in its run.json.
      date: what a template prints as today's, ISO.

    Returns:
      The assistant's text.

    Raises:
      UserError: an empty condition, a conversation that no template can render or that is too long.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    turns = [Message(turn["role"], turn["content"]) for turn in messages]
    system = ""
    if turns and turns[0].role == "system":
        system, turns = turns[0].content, turns[1:]
    prompt = encode_chat(
        tokenizer, chat_template, system, turns, date, add_generation_prompt=True
    ).ids
    encoded = None
    if condition is not None:
        length = model.hypernet_config.condition_length if model.hypernet_config else 1
        encoded, cut = encode_condition(condition, tokenizer, length)
        if cut and model.hypernet is not None:
            _log.warning("the condition is cut to its first %d tokens: %r", length, condition)
        if model.hypernet is None:
            raise UserError(
                "this model has no hypernetwork, so a condition cannot steer it; load a run folder "
                "or a MeGan checkpoint, or pass condition=None."
            )
    new = decode(
        model,
        params,
        [prompt],
        [encoded],
        max_new_tokens=max_new_tokens,
        stop_tokens=stop_ids(tokenizer, chat_template, date),
        sampling=Sampling(temperature, top_p),
        seed=seed,
    )[0]
    return tokenizer.decode(new)


def save_pretrained(model: Model, params: Params, path: str | Path, format: str = "hf") -> None:
    """Writes a model for other programs.

    Args:
      model, params: what to write.
      path: a folder that does not exist yet.
      format: `hf`, the target network alone as Hugging Face safetensors; `megan-torch`, target and
        hypernetwork under the names of the MeGan reference implementation.

    Raises:
      UserError: an unknown format, a hypernetwork that the format cannot hold, an unwritable path.
    """
    if format not in FORMATS:
        raise UserError(
            f"format {format!r} is not one of {', '.join(FORMATS)}.{nearest(format, FORMATS)}"
        )
    host = jax.device_get(params)
    if format == "hf":
        save_hf(path, model.config, host["target"])
        return
    if model.hypernet_config is None:
        raise UserError("this model has no hypernetwork; write it with format 'hf'.")
    save_megan_torch(path, model.config, model.hypernet_config, host)
