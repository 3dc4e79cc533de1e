"""A SentencePiece model (Llama 2, Mistral) as a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from megan_jax.data.files import write_files
from megan_jax.data.tokenizer_json import check_text, token_text
from megan_jax.errors import UserError


class SentencePieceTokenizer:
    """A `Tokenizer` (see `tokenizers.py`) over the bytes of a SentencePiece *.model.

    Control symbols such as `</s>` are never read from text; in a template they cut the text into
    runs, and each run is tokenised by itself, as Meta's code and Hugging Face's `legacy` do.

    Args:
      model: the file's bytes.
      config: the parsed tokenizer_config.json, if there is one.
      chat_template: Jinja2 source.
      source: what error messages call the tokenizer.
    """

    def __init__(
        self,
        model: bytes,
        config: Mapping[str, Any] | None = None,
        chat_template: str | None = None,
        source: str = "tokenizer.model",
    ):
        self.config = dict(config or {})
        self.chat_template = chat_template
        self._model = model
        if not model:
            raise UserError(f"{source}: not a SentencePiece model: the file is empty.")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:  # the library raises bare exceptions
            raise UserError(f"{source}: not a SentencePiece model: {error}.") from None
        self._added = _added_tokens(self.config, self._processor.get_piece_size(), source)
        self._texts = {number: text for text, number in self._added.items()}
        self.vocab_size = max([self._processor.get_piece_size() - 1, *self._texts]) + 1
        self.special_tokens = {**self._control_symbols(), **self._added}
        self.bos_id = self._named("bos_token", self._processor.bos_id())
        self.eos_id = self._named("eos_token", self._processor.eos_id())
        self.pad_id = self._named("pad_token", self._processor.pad_id())
        self._special_ids = frozenset(self.special_tokens.values())
        names = sorted(self.special_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: special-token text in it stays text, none is added."""
        return self._processor.encode(check_text(text))

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """As `encode`, with each token's (start, end) characters in `text`."""
        found = self._processor.encode(check_text(text), return_type="offset_mapping")
        return found["ids"], found["offsets"]

    def encode_parts(
        self, parts: Sequence[tuple[str, bool]]
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and offsets of joined (text, is_template); specials are read from templates only."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        run, start = "", 0
        for text, template in parts:
            position = 0
            for match in self._pattern.finditer(text) if template else ():
                run += text[position : match.start()]
                self._append_run(run, start, ids, offsets)
                start += len(run)
                ids.append(self.special_tokens[match[0]])
                offsets.append((start, start + len(match[0])))
                run, start, position = "", start + len(match[0]), match.end()
            run += text[position:]
        self._append_run(run, start, ids, offsets)
        return ids, offsets

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of `ids`; special tokens are left out or written as text."""
        texts: list[str] = []
        run: list[int] = []
        names = {number: text for text, number in self.special_tokens.items()}
        for number in [*map(int, ids), None]:
            if number is not None and number not in self._special_ids:
                run.append(number)
                continue
            if number is None or not skip_special:
                texts.append(self._processor.decode(run))
                texts.append("" if number is None else names[number])
                run = []
        return "".join(texts)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.model and tokenizer_config.json."""
        config = {"tokenizer_class": "LlamaTokenizer", **self.config}
        config.pop("chat_template", None)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        text = json.dumps(config, ensure_ascii=False, indent=2)
        write_files(
            directory,
            {"tokenizer.model": self._model, "tokenizer_config.json": text.encode("utf-8")},
        )

    def _append_run(
        self, run: str, start: int, ids: list[int], offsets: list[tuple[int, int]]
    ) -> None:
        if run:
            new_ids, new_offsets = self.encode_with_offsets(run)
            ids.extend(new_ids)
            offsets.extend((start + begin, start + end) for begin, end in new_offsets)

    def _control_symbols(self) -> dict[str, int]:
        processor = self._processor
        return {
            processor.id_to_piece(number): number
            for number in range(processor.get_piece_size())
            if processor.is_control(number) or processor.is_unknown(number)
        }

    def _named(self, key: str, fallback: int) -> int | None:
        number = self.special_tokens.get(token_text(self.config.get(key)) or "")
        if number is not None:
            return number
        return fallback if fallback >= 0 else None


def _added_tokens(config: Mapping[str, Any], size: int, source: str) -> dict[str, int]:
    """Tokens beyond the model's own pieces, from tokenizer_config.json."""
    added: dict[str, int] = {}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        text = token_text(token)
        if text and int(number) >= size:
            added[text] = int(number)
    if added and sorted(added.values()) != list(range(size, size + len(added))):
        raise UserError(f"{source}: added tokens do not follow the model's {size} pieces.")
    return added
