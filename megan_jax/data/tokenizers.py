"""What a tokenizer is here, and the one way to load one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from megan_jax.convert.gguf import metadata
from megan_jax.data.files import read_bytes, read_json, read_text
from megan_jax.data.templates import CHATML
from megan_jax.data.tokenizer_gguf import gguf_tokenizer
from megan_jax.data.tokenizer_json import JsonTokenizer
from megan_jax.data.tokenizer_sentencepiece import SentencePieceTokenizer
from megan_jax.errors import UserError

Offsets = list[tuple[int, int]]


class Tokenizer(Protocol):
    """Turns text into token ids and back.

    Attributes:
      special_tokens: text to id of the tokens that steer a conversation.
      bos_id, eos_id, pad_id: ids, None where the tokenizer has none.
      vocab_size: one more than the largest id.
      chat_template: Jinja source of the conversation format, None if the files hold none.
    """

    special_tokens: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    vocab_size: int
    chat_template: str | None

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: special-token text in it stays text, none is added."""
        ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """As `encode`, with each token's (start, end) characters in `text`."""
        ...

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> tuple[list[int], Offsets]:
        """Ids and offsets of the joined texts of `parts` = (text, is_template).

        Special tokens are read from template parts and from these only.
        """
        ...

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`; special tokens are left out or written as text."""
        ...

    def save(self, directory: str | Path) -> None:
        """Writes files into `directory` from which `load_tokenizer` makes the same tokenizer."""
        ...


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer at `path`.

    Args:
      path: a Hugging Face or run folder (tokenizer.json, else tokenizer.model; also in a folder
        `tokenizer` within), a tokenizer.json, a SentencePiece *.model, or a *.gguf.

    Raises:
      UserError: nothing there, nothing that is a tokenizer, or one that is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; a tokenizer is needed there.")
    if path.suffix == ".gguf":
        return gguf_tokenizer(metadata(path), str(path))
    if path.suffix == ".json":
        return _load_file(path, JsonTokenizer, read_json)
    if path.suffix == ".model":
        return _load_file(path, SentencePieceTokenizer, _read_sentencepiece)
    raise UserError(
        f"{path}: not a tokenizer; give a folder, tokenizer.json, a *.model or a *.gguf."
    )


def byte_tokenizer() -> Tokenizer:
    """A tokenizer that needs no file: one token per byte of UTF-8, five special ones, ChatML."""
    alphabet = _byte_alphabet()
    special = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    spec = {
        "version": "1.0",
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(alphabet)}, "merges": []},
        "added_tokens": [
            {"id": 256 + i, "content": text, "special": True, "normalized": False}
            for i, text in enumerate(special)
        ],
    }
    names = {"pad_token": special[0], "bos_token": special[1], "eos_token": special[2]}
    return JsonTokenizer(spec, names, CHATML, "the built-in byte tokenizer")


def _load_folder(folder: Path) -> Tokenizer:
    for place in (folder, folder / "tokenizer"):
        if (place / "tokenizer.json").exists():
            return _load_file(place / "tokenizer.json", JsonTokenizer, read_json)
        if (place / "tokenizer.model").exists():
            return _load_file(
                place / "tokenizer.model", SentencePieceTokenizer, _read_sentencepiece
            )
    raise UserError(
        f"{folder}: no tokenizer.json and no tokenizer.model in it; copy the model's there."
    )


def _load_file(
    path: Path, kind: Callable[..., Tokenizer], read: Callable[[Path], Any]
) -> Tokenizer:
    config_path = path.with_name("tokenizer_config.json")
    names_path = path.with_name("special_tokens_map.json")
    config = read_json(names_path) if names_path.exists() else {}
    config |= read_json(config_path) if config_path.exists() else {}
    return kind(read(path), config, _chat_template(path, config), str(path))


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else the configuration's template, of several the one named default."""
    separate = path.with_name("chat_template.jinja")
    if separate.exists():
        return read_text(separate)
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {
            entry["name"]: entry["template"]
            for entry in template
            if isinstance(entry, Mapping) and {"name", "template"} <= entry.keys()
        }
        if "default" not in named:
            raise UserError(
                f"{path.with_name('tokenizer_config.json')}: chat_template holds "
                f"{', '.join(named) or 'nothing usable'} but none named 'default'."
            )
        template = named["default"]
    if template is not None and not isinstance(template, str):
        raise UserError(
            f"{path.with_name('tokenizer_config.json')}: chat_template is a "
            f"{type(template).__name__}, not text."
        )
    return template


def _read_sentencepiece(path: Path) -> bytes:
    content = read_bytes(path)
    if re.match(rb"[A-Za-z0-9+/=]+ \d+\r?\n", content):
        raise UserError(
            f"{path}: a tiktoken rank file (Llama 3), not a SentencePiece model; use the "
            "tokenizer.json of the same model."
        )
    return content


def _byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, by byte (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
