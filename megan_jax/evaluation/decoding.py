"""Batched greedy and sampled decoding through the cache, one compiled program for any condition."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from megan_jax.errors import UserError
from megan_jax.models.cache import Cache
from megan_jax.models.model import Model, Params


@struct.dataclass
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: 0 takes the most likely token.
      top_p: the smallest set of tokens with this probability is drawn from; 1 is all.
    """

    temperature: float = 0.0
    top_p: float = 1.0


def _bucket(length: int, step: int = 64) -> int:
    """Rounds up, so that prompts of similar lengths share one compiled program."""
    return -(-length // step) * step


def _choose(logits: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    greedy = jnp.argmax(logits, axis=-1)
    scaled = logits / jnp.maximum(sampling.temperature, 1e-6)
    ordered = jnp.sort(scaled, axis=-1)[:, ::-1]
    mass = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1)
    # The first token is always in: its own mass is not counted against it.
    kept = jnp.sum(mass - jax.nn.softmax(ordered, axis=-1) < sampling.top_p, axis=-1)
    kept = jnp.maximum(kept, 1)
    floor = jnp.take_along_axis(ordered, kept[:, None] - 1, axis=-1)
    drawn = jax.random.categorical(key, jnp.where(scaled < floor, -jnp.inf, scaled), axis=-1)
    return jnp.where(sampling.temperature > 0, drawn, greedy).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def _decode(
    model: Model,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    condition_tokens: jax.Array,
    condition_ids: jax.Array,
    stop: jax.Array,
    key: jax.Array,
    sampling: Sampling,
    *,
    max_new_tokens: int,
) -> jax.Array:
    batch, width = tokens.shape
    modulation = model.modulate(params, condition_tokens, condition_ids)
    index = jnp.max(condition_ids, axis=1, keepdims=True)
    cache = model.empty_cache(batch, width + max_new_tokens)
    positions = jnp.broadcast_to(jnp.arange(width), (batch, width))

    def run(tokens: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        out = model.run_target(
            params,
            tokens,
            positions,
            jnp.ones_like(tokens),
            modulation=modulation,
            condition_index=jnp.broadcast_to(index, tokens.shape),
            cache=cache,
        )
        return out.hidden, out.cache

    hidden, cache = run(tokens, positions, cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    keys = jax.random.split(key, max_new_tokens)
    first = _choose(model.unembed(params, last), keys[0], sampling)
    written = jnp.full((batch, max_new_tokens), -1, jnp.int32).at[:, 0].set(first)

    def stopped(token: jax.Array) -> jax.Array:
        return jnp.any(token[:, None] == stop[None, :], axis=1)

    def unfinished(state: tuple) -> jax.Array:
        step, _, _, _, done = state
        return (step < max_new_tokens) & ~jnp.all(done)

    def advance(state: tuple) -> tuple:
        step, token, written, cache, done = state
        hidden, cache = run(token[:, None], (lengths + step - 1)[:, None], cache)
        token = _choose(model.unembed(params, hidden[:, 0]), keys[step], sampling)
        written = written.at[:, step].set(jnp.where(done, -1, token))
        return step + 1, token, written, cache, done | stopped(token)

    state = (jnp.asarray(1), first, written, cache, stopped(first))
    return jax.lax.while_loop(unfinished, advance, state)[2]


def decode(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Sequence[int] | None],
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int] = (),
    condition_length: int | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> list[list[int]]:
    """Continues prompts, each under its own condition, in one batch.

    A row's result does not depend on the other rows. Prompts are padded to a multiple of 64
    tokens and conditions to one length, so that few programs are compiled.

    Args:
      prompts: token ids, at least one each.
      conditions: token ids of each row's condition; None is the base model.
      max_new_tokens: the most tokens to add.
      stop_tokens: a row ends before any of these.
      condition_length: the length to which conditions are padded; by default the
        hypernetwork's. Longer conditions are an error here: whoever encodes them truncates.
      sampling: greedy by default.
      seed: of the sampling.

    Returns:
      The new token ids of each row, without the stop token.

    Raises:
      UserError: an empty prompt or condition, one that is too long or has a token that the model
        does not know, or no token to add.
    """
    if not prompts:
        return []
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    if any(len(prompt) == 0 for prompt in prompts):
        raise UserError("A prompt has no tokens; there is nothing to continue.")
    if any(condition is not None and len(condition) == 0 for condition in conditions):
        raise UserError("A condition has no tokens; leave it out to run the base model.")
    for name, ids in [("prompt", p) for p in prompts] + [
        ("condition", () if c is None else c) for c in conditions
    ]:
        unknown = [token for token in ids if not 0 <= token < model.config.vocab_size]
        if unknown:
            raise UserError(
                f"Token {unknown[0]} of a {name} is outside the model's vocabulary of "
                f"{model.config.vocab_size}: the tokenizer belongs to another model."
            )
    if condition_length is None:
        config = model.hypernet_config
        condition_length = config.condition_length if config is not None else 1
    longest = max((len(c) for c in conditions if c is not None), default=0)
    if longest > condition_length:
        raise UserError(f"A condition of {longest} tokens exceeds {condition_length}.")
    width = _bucket(max(len(prompt) for prompt in prompts))
    if width + max_new_tokens > model.config.max_position_embeddings:
        width = max(len(prompt) for prompt in prompts)
    if width + max_new_tokens > model.config.max_position_embeddings:
        raise UserError(
            f"A prompt of {width} tokens and {max_new_tokens} new ones exceed the model's "
            f"max_position_embeddings ({model.config.max_position_embeddings})."
        )
    tokens = np.zeros((len(prompts), width), np.int32)
    condition_tokens = np.zeros((len(prompts), condition_length), np.int32)
    condition_ids = np.zeros((len(prompts), condition_length), np.int32)
    for row, (prompt, condition) in enumerate(zip(prompts, conditions, strict=True)):
        tokens[row, : len(prompt)] = prompt
        if condition is not None:
            condition_tokens[row, : len(condition)] = condition
            condition_ids[row, : len(condition)] = 1
    new = _decode(
        model,
        params,
        tokens,
        np.asarray([len(prompt) for prompt in prompts], np.int32),
        condition_tokens,
        condition_ids,
        np.asarray(stop_tokens or [-1], np.int32),
        jax.random.key(seed),
        sampling,
        max_new_tokens=max_new_tokens,
    )
    stops = set(stop_tokens)
    results = []
    for row in np.asarray(new):
        ids = [int(token) for token in row if token >= 0]
        results.append(ids[:-1] if ids and ids[-1] in stops else ids)
    return results
