"""The tokenizer inside a GGUF file, as the tokenizer.json that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megan_jax.data.tokenizer_json import JsonTokenizer
from megan_jax.errors import UserError

# llama.cpp's numbers for the kinds of tokens (`llama_token_type`).
_CONTROL, _USER_DEFINED = 3, 4

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_GPT2 = {**_BYTES, "use_regex": True}
_DIGITS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2],
}
_LLAMA3 = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {"Regex": _LLAMA3_PATTERN},
            "behavior": "Isolated",
            "invert": False,
        },
        {**_BYTES, "use_regex": False},
    ],
}
# llama.cpp's `tokenizer.ggml.pre` to how Hugging Face cuts text into words before merging.
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _GPT2,
    "smollm": _DIGITS,
    "refact": _DIGITS,
    "starcoder": _DIGITS,
    "command-r": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


def gguf_tokenizer(fields: Mapping[str, Any], source: str) -> JsonTokenizer:
    """The tokenizer that the metadata of a GGUF file describes.

    Args:
      fields: GGUF metadata, `tokenizer.ggml.*` and `tokenizer.chat_template` among it.
      source: the file, for messages.

    Raises:
      UserError: a field is missing or malformed, or the kind of tokenizer is not supported.
    """
    reader = _Fields(fields, source)
    kind = reader.take("model", str)
    tokens = reader.take_all("tokens", str)
    kinds = reader.take_all("token_type", int, default=[1] * len(tokens))
    if not tokens or len(kinds) != len(tokens):
        raise UserError(
            f"{source}: {len(tokens)} tokens but {len(kinds)} token types; the file is damaged."
        )
    names = _names(reader, tokens)
    if kind == "gpt2":
        spec = _byte_level(reader, tokens, kinds)
    elif kind == "llama":
        spec = _sentencepiece(reader, tokens)
    else:
        raise UserError(
            f"{source}: tokenizer model {kind!r} is not supported (gpt2 and llama are); give a "
            "Hugging Face folder with tokenizer.json instead."
        )
    spec["added_tokens"] = [
        {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token_kind == _CONTROL,
        }
        for number, (text, token_kind) in enumerate(zip(tokens, kinds, strict=True))
        if token_kind in (_CONTROL, _USER_DEFINED)
    ]
    return JsonTokenizer(
        {"version": "1.0", "truncation": None, "padding": None, "post_processor": None, **spec},
        names,
        reader.chat_template(),
        source,
    )


class _Fields:
    """Typed access to `tokenizer.ggml.*` with the file's name in every message."""

    def __init__(self, fields: Mapping[str, Any], source: str):
        self.fields, self.source = fields, source

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        value = self.fields.get(f"tokenizer.ggml.{name}", default)
        if value is None:
            raise UserError(f"{self.source}: tokenizer.ggml.{name} is missing; no tokenizer in it.")
        if not isinstance(value, kind):
            raise UserError(
                f"{self.source}: tokenizer.ggml.{name} is a {type(value).__name__}, not a "
                f"{kind.__name__}."
            )
        return value

    def take_all(self, name: str, kind: type, default: Any = None) -> list[Any]:
        values = self.take(name, list, default)
        wrong = next((value for value in values if not isinstance(value, kind)), None)
        if wrong is not None:
            raise UserError(
                f"{self.source}: tokenizer.ggml.{name} holds a {type(wrong).__name__}, not only "
                f"{kind.__name__}."
            )
        return values

    def chat_template(self) -> str | None:
        template = self.fields.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template else None


def _byte_level(reader: _Fields, tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    pre = reader.take("pre", str, default="default")
    if pre not in PRE_TOKENIZERS:
        raise UserError(
            f"{reader.source}: tokenizer.ggml.pre {pre!r} is not supported (supported: "
            f"{', '.join(PRE_TOKENIZERS)}); give a Hugging Face folder with tokenizer.json instead."
        )
    merges = [tuple(merge.split(" ")) for merge in reader.take_all("merges", str)]
    if any(len(pair) != 2 for pair in merges):
        raise UserError(f"{reader.source}: tokenizer.ggml.merges holds something not a pair.")
    return {
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "decoder": _GPT2,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": PRE_TOKENIZERS[pre] is _LLAMA3,
            "vocab": {text: number for number, text in enumerate(tokens)},
            "merges": merges,
        },
    }


def _sentencepiece(reader: _Fields, tokens: Sequence[str]) -> dict[str, Any]:
    scores = reader.take_all("scores", float)
    if len(scores) != len(tokens):
        raise UserError(f"{reader.source}: {len(tokens)} tokens but {len(scores)} scores.")
    vocabulary = {text: number for number, text in enumerate(tokens)}
    unknown = reader.take("unknown_token_id", int, default=0)
    prefix = reader.take("add_space_prefix", bool, default=True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges_by_score(vocabulary, scores),
        },
    }


def merges_by_score(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[list[str]]:
    """SentencePiece's BPE merges, which it implies by scores: the best piece is made first."""
    found = [
        (-scores[number], vocabulary[text[:cut]], vocabulary[text[cut:]], text[:cut], text[cut:])
        for text, number in vocabulary.items()
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    return [[left, right] for _, _, _, left, right in sorted(found)]


def _names(reader: _Fields, tokens: Sequence[str]) -> dict[str, Any]:
    """bos, eos, pad and unk in tokenizer_config.json's spelling."""
    names: dict[str, Any] = {}
    keys = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    for name, key in keys.items():
        number = reader.fields.get(f"tokenizer.ggml.{key}_token_id")
        if number is None:
            continue
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            raise UserError(
                f"{reader.source}: tokenizer.ggml.{key}_token_id {number!r} is outside the "
                f"vocabulary of {len(tokens)}."
            )
        names[f"{name}_token"] = tokens[number]
    return names
