"""Small tokenizers of each kind, trained on the spot."""

from __future__ import annotations

import functools
import io
import json

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from megan_jax.data.tokenizer_gguf import PRE_TOKENIZERS
from megan_jax.data.tokenizer_json import JsonTokenizer
from megan_jax.data.tokenizer_sentencepiece import SentencePieceTokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind.",
    "Whether 'tis nobler in the mind to suffer the slings and arrows, 1234 of them.",
    "user assistant system You are a helpful assistant. The answer is: yes, no; neither.",
    "Spaces  and   tabs\tand\n\nnew lines.\n Then some é, ü and 你好 as well.",
    "the mind the dog the fox the answer the system " * 8,
]
SPECIAL = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
    "llama2": ["<unk>", "<s>", "</s>"],
}
NAMES = {
    "chatml": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
}
PRE = {"chatml": "smollm", "llama3": "llama-bpe"}


@functools.cache
def bpe_spec(kind: str) -> str:
    """tokenizer.json of a byte-level BPE with the special tokens of `chatml` or `llama3`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL[kind],
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["pre_tokenizer"] = PRE_TOKENIZERS[PRE[kind]]
    return json.dumps(spec)


@functools.cache
def sentencepiece_model() -> bytes:
    """A SentencePiece BPE model with Llama 2's settings, 400 pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def gguf_llama_fields() -> dict:
    """GGUF metadata that describes `sentencepiece_model`."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    numbers = range(processor.get_piece_size())

    def kind(number: int) -> int:
        if processor.is_unknown(number):
            return 2
        if processor.is_control(number):
            return 3
        return 6 if processor.is_byte(number) else 1

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(number) for number in numbers],
        "tokenizer.ggml.scores": [processor.get_score(number) for number in numbers],
        "tokenizer.ggml.token_type": [kind(number) for number in numbers],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def gguf_bpe_fields(kind: str = "chatml") -> dict:
    """GGUF metadata that describes `bpe_spec(kind)`."""
    spec = json.loads(bpe_spec(kind))
    vocabulary = sorted(spec["model"]["vocab"].items(), key=lambda item: item[1])
    special = set(SPECIAL[kind])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
    tokens = [text for text, _ in vocabulary]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": PRE[kind],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3 if text in special else 1 for text in tokens],
        "tokenizer.ggml.bos_token_id": tokens.index(NAMES[kind]["bos_token"]),
        "tokenizer.ggml.eos_token_id": tokens.index(NAMES[kind]["eos_token"]),
        "tokenizer.ggml.padding_token_id": 0,
    }


@functools.cache
def tiny_tokenizer(kind: str):
    """The tokenizer that goes with the fallback template `kind`."""
    if kind == "llama2":
        return SentencePieceTokenizer(sentencepiece_model())
    return JsonTokenizer(json.loads(bpe_spec(kind)), NAMES[kind])
