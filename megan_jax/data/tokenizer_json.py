"""A tokenizer described by Hugging Face's tokenizer.json, whatever it was made from."""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from megan_jax.data.files import write_texts
from megan_jax.data.templates import FALLBACKS
from megan_jax.errors import UserError

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


class JsonTokenizer:
    """A `Tokenizer` (see `tokenizers.py`) over a tokenizer.json.

    A special token must be read from a template but never from what a user typed, and the ids
    must be those of Hugging Face for the whole text at once (a prefix space, say, depends on what
    stands before). So the encoder knows every special token under a random name of private-use
    characters, of the same length and drawn anew in each process: template text is rewritten
    to these names, user text cannot contain them, and offsets stay as they are.

    Args:
      spec: the parsed tokenizer.json.
      config: the parsed tokenizer_config.json: names of bos, eos, pad and unk, more added tokens.
      chat_template: Jinja2 source.
      source: what error messages call the tokenizer.

    Raises:
      UserError: the `tokenizers` library cannot read `spec`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        source: str = "tokenizer.json",
    ):
        self.config = dict(config or {})
        self.chat_template = chat_template
        self.spec = _with_added_tokens(spec, self.config)
        self._whole = _build(self.spec, source)
        names = {key: token_text(self.config.get(key)) for key in _NAMED}
        ids = {key: self._whole.token_to_id(name) for key, name in names.items() if name}
        missing = [f"{key} {names[key]!r}" for key, number in ids.items() if number is None]
        if missing:
            raise UserError(f"{source}: the vocabulary lacks {', '.join(missing)}.")
        self.bos_id = ids.get("bos_token")
        self.eos_id = ids.get("eos_token")
        self.pad_id = ids.get("pad_token")
        self.special_tokens = self._find_special([name for name in names.values() if name])
        self.vocab_size = max(self._whole.get_vocab(with_added_tokens=True).values()) + 1
        self._special_ids = frozenset(self.special_tokens.values())
        self._disguises = _draw_disguises(self.special_tokens)
        self._encoder = _build(_disguised(self.spec, self._disguises, self.special_tokens), source)
        self._pattern = re.compile(
            "|".join(map(re.escape, sorted(self._disguises, key=len, reverse=True))) or r"(?!)"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: special-token text in it stays text, none is added."""
        return self._encoder.encode(check_text(text), add_special_tokens=False).ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """As `encode`, with each token's (start, end) characters in `text`."""
        encoding = self._encoder.encode(check_text(text), add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_parts(
        self, parts: Sequence[tuple[str, bool]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets of joined (text, is_template); specials are read from templates only."""
        return self.encode_with_offsets(
            "".join(self._disguise(text) if template else text for text, template in parts)
        )

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`; special tokens are left out or written as text."""
        kept = [int(number) for number in ids if not (skip_special and number in self._special_ids)]
        return self._whole.decode(kept, skip_special_tokens=False)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, as Hugging Face reads them."""
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self.config}
        config.pop("chat_template", None)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        write_texts(
            directory,
            {
                "tokenizer.json": json.dumps(self.spec, ensure_ascii=False),
                "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2),
            },
        )

    def _disguise(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._disguises[match[0]], text)

    def _find_special(self, named: Sequence[str]) -> dict[str, int]:
        """Special tokens, named tokens, and added tokens with which a template builds turns."""
        templates = [source for source, _ in FALLBACKS.values()] + [self.chat_template or ""]
        texts = list(named)
        for token in self.spec.get("added_tokens") or []:
            text = token["content"]
            in_template = bool(text.strip()) and any(text in source for source in templates)
            if token.get("special") or in_template:
                texts.append(text)
        return {text: self._whole.token_to_id(text) for text in texts}


def token_text(token: Any) -> str | None:
    """The text of a token that a configuration gives as a string or as {"content": …}."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def check_text(text: str) -> str:
    """Returns `text`; UserError where it holds half a surrogate pair, which no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"text that is not Unicode at character {error.start}: {text[error.start]!r}; give "
            "UTF-8."
        ) from None
    return text


def _build(spec: Mapping[str, Any], source: str) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{source}: not a tokenizer that can be read: {error}.") from None
    built.no_padding()
    built.no_truncation()
    return built


def _with_added_tokens(spec: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with the tokens that only tokenizer_config.json lists, by ascending id."""
    spec = dict(spec)
    known = {token["content"] for token in spec.get("added_tokens") or []}
    extra = []
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if isinstance(token, Mapping) and token.get("content") not in known:
            extra.append({**token, "id": int(number)})
    unlisted = sorted(extra, key=lambda token: token["id"])
    spec["added_tokens"] = [
        {key: value for key, value in {**_PLAIN_TOKEN, **token}.items() if key in _TOKEN_KEYS}
        for token in [*(spec.get("added_tokens") or []), *unlisted]
    ]
    return spec


_PLAIN_TOKEN = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": False,
}
_TOKEN_KEYS = frozenset({"id", "content", *_PLAIN_TOKEN})


def _draw_disguises(special: Mapping[str, int]) -> dict[str, str]:
    """A random name of private-use characters for each special token, as long as its text."""
    disguises: dict[str, str] = {}
    for text in special:
        name = ""
        while not name or name in disguises.values():
            name = "".join(chr(0xF0000 + secrets.randbelow(0xFFFD)) for _ in text)
        disguises[text] = name
    return disguises


def _disguised(
    spec: Mapping[str, Any], names: Mapping[str, str], ids: Mapping[str, int]
) -> dict[str, Any]:
    """`spec` in which every special token is known under its disguise only.

    The post-processor goes too: it adds tokens around a whole text and shortens offsets.
    """
    spec = copy.copy(dict(spec))
    spec["post_processor"] = None
    listed = {token["content"] for token in spec["added_tokens"]}
    spec["added_tokens"] = [
        {**token, "content": names.get(token["content"], token["content"])}
        for token in spec["added_tokens"]
    ] + [
        {**_PLAIN_TOKEN, "id": ids[text], "content": names[text], "special": True}
        for text in sorted(names.keys() - listed)
    ]
    model = dict(spec["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, Mapping):
        model["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        model["merges"] = [pair for pair in model["merges"] if _merged(pair) not in names]
    spec["model"] = model
    return spec


def _merged(pair: str | Sequence[str]) -> str:
    return "".join(pair.split(" ") if isinstance(pair, str) else pair)
