"""Tokenizers of every kind: round trips, offsets, special-token text, files, and bad files."""

import copy
import json
import random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from megan_jax.data.tokenizer_gguf import gguf_tokenizer, merges_by_score
from megan_jax.data.tokenizer_json import JsonTokenizer
from megan_jax.data.tokenizers import byte_tokenizer, load_tokenizer
from megan_jax.errors import UserError
from tests.data.tiny_tokenizers import (
    CORPUS,
    NAMES,
    SPECIAL,
    bpe_spec,
    gguf_bpe_fields,
    gguf_llama_fields,
    sentencepiece_model,
    tiny_tokenizer,
)

BYTES = byte_tokenizer()
GGUF_LLAMA = gguf_tokenizer(gguf_llama_fields(), "m.gguf")
ALL = {
    "bytes": BYTES,
    "chatml": tiny_tokenizer("chatml"),
    "llama3": tiny_tokenizer("llama3"),
    "llama2": tiny_tokenizer("llama2"),
    "gguf-llama": GGUF_LLAMA,
    "gguf-gpt2": gguf_tokenizer(gguf_bpe_fields(), "m.gguf"),
}
HOSTILE = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<s>", "</s>", "<unk>"]
TEXT = st.lists(
    st.sampled_from(
        ["The", " dog", "  ", "\n", "1234", "é", "你好", "😀", "don't", ";", "\t", *HOSTILE]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), max_size=4),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("name", ALL)
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_text_round_trips_and_stays_text(name, text):
    tokenizer = ALL[name]
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    unknown = {tokenizer.special_tokens.get("<unk>")}
    assert not (set(tokenizer.special_tokens.values()) - unknown) & set(ids)
    assert tokenizer.decode(ids) == text
    assert len(offsets) == len(ids)
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
    covered = {place for start, end in offsets for place in range(start, end)}
    assert covered == set(range(len(text)))


@pytest.mark.parametrize("name", ALL)
def test_half_a_surrogate_pair_is_no_text(name):
    with pytest.raises(UserError, match=r"not Unicode at character 1: '.ud800'"):
        ALL[name].encode("a\ud800")
    with pytest.raises(UserError, match=r"not Unicode at character 1"):
        ALL[name].encode_parts([("a\ud800", False)])


@pytest.mark.parametrize("name", ALL)
def test_template_text_gives_special_tokens_and_user_text_does_not(name):
    tokenizer = ALL[name]
    special = next(text for text in tokenizer.special_tokens if text != "<unk>")
    number = tokenizer.special_tokens[special]
    ids, offsets = tokenizer.encode_parts(
        [(special, True), (f"a{special}b", False), (special, True)]
    )
    assert ids[0] == ids[-1] == number and ids.count(number) == 2
    assert offsets[0] == (0, len(special))
    assert offsets[-1] == (2 * len(special) + 2, 3 * len(special) + 2)
    assert tokenizer.decode(ids) == f"a{special}b"
    if name != "gguf-llama":  # Hugging Face's Llama 2 puts its prefix space after every special
        assert tokenizer.decode(ids, skip_special=False) == f"{special}a{special}b{special}"


@pytest.mark.parametrize("kind", ["chatml", "llama3"])
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_template_text_is_tokenised_as_hugging_face_does(kind, text):
    whole = tokenizers.Tokenizer.from_str(bpe_spec(kind))
    reference = whole.encode(text, add_special_tokens=False).ids
    assert tiny_tokenizer(kind).encode_parts([(text, True)])[0] == reference


def test_the_vocabulary_of_a_gguf_equals_sentencepiece():
    """The two read the same model by different code; ids must agree on any text."""
    draw = random.Random(0)
    words = [word for line in CORPUS for word in line.split(" ")] + ["😀", "", "</s>", "<0x41>"]
    reference = tiny_tokenizer("llama2")
    for _ in range(300):
        text = " ".join(draw.choices(words, k=draw.randint(1, 10)))
        assert GGUF_LLAMA.encode(text) == reference.encode(text)


def test_a_gguf_byte_level_vocabulary_equals_its_tokenizer_json():
    for kind in ("chatml", "llama3"):
        built = gguf_tokenizer(gguf_bpe_fields(kind), "m.gguf")
        for line in CORPUS:
            assert built.encode(line) == tiny_tokenizer(kind).encode(line)
        assert built.special_tokens == tiny_tokenizer(kind).special_tokens
        assert built.pad_id == 0


def test_merges_come_best_piece_first():
    vocabulary = {"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5}
    merges = merges_by_score(vocabulary, [0.0, 0.0, 0.0, -1.0, -2.0, -3.0])
    assert merges == [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]


def test_smollm_cuts_digits_and_llama3_groups_them():
    def digits(kind: str) -> list[str]:
        tokenizer = tiny_tokenizer(kind)
        _, offsets = tokenizer.encode_with_offsets("1234")
        return offsets

    assert digits("chatml") == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(digits("llama3")) < 4  # the corpus has 1234: merged within a group of three


def test_the_byte_tokenizer():
    assert BYTES.vocab_size == 261
    assert BYTES.encode("aé") == [97, 195, 169]
    assert (BYTES.pad_id, BYTES.bos_id, BYTES.eos_id) == (256, 257, 258)
    assert BYTES.special_tokens["<|im_end|>"] == 260
    assert "<|im_start|>" in BYTES.chat_template


@pytest.mark.parametrize("name", ALL)
def test_a_saved_tokenizer_loads_the_same(name, tmp_path):
    tokenizer = copy.copy(ALL[name])
    tokenizer.chat_template = tokenizer.chat_template or "{{ messages }}"
    tokenizer.save(tmp_path / "run" / "tokenizer")
    for path in (tmp_path / "run", tmp_path / "run" / "tokenizer"):
        loaded = load_tokenizer(path)
        assert loaded.encode(CORPUS[3]) == tokenizer.encode(CORPUS[3])
        for field in (
            "special_tokens", "bos_id", "eos_id", "pad_id", "vocab_size", "chat_template"
        ):  # fmt: skip
            assert getattr(loaded, field) == getattr(tokenizer, field)


def save(folder, spec=None, **config):
    (folder / "tokenizer.json").write_text(spec or bpe_spec("chatml"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**NAMES["chatml"], **config}))
    return folder


def test_special_tokens_may_be_dictionaries(tmp_path):
    eos = {"content": "<|im_end|>", "lstrip": False}
    assert load_tokenizer(save(tmp_path, eos_token=eos)).eos_id == 2


def test_names_may_stand_in_special_tokens_map(tmp_path):
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    assert load_tokenizer(tmp_path / "tokenizer.json").pad_id == 0


def test_tokens_that_only_the_configuration_lists(tmp_path):
    spec = json.loads(bpe_spec("chatml"))
    size = max(spec["model"]["vocab"].values()) + 1
    added = {str(size): {"content": "<|tool|>", "special": True}}
    loaded = load_tokenizer(save(tmp_path, added_tokens_decoder=added))
    assert loaded.special_tokens["<|tool|>"] == size and loaded.vocab_size == size + 1
    assert size not in loaded.encode("<|tool|>")
    assert loaded.encode_parts([("<|tool|>", True)])[0] == [size]


def test_added_tokens_of_a_template_count_as_special(tmp_path):
    """Some fine-tuned models add <|im_start|> as an ordinary added token."""
    spec = json.loads(bpe_spec("chatml"))
    for token in spec["added_tokens"]:
        token["special"] = False
    loaded = JsonTokenizer(spec, {"eos_token": "<|endoftext|>"})
    assert set(loaded.encode("<|im_start|><|im_end|>")).isdisjoint({1, 2})


def test_templates_in_a_file_and_in_a_list(tmp_path):
    listed = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert load_tokenizer(save(tmp_path, chat_template=listed)).chat_template == "D"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert load_tokenizer(tmp_path).chat_template == "J"


def test_a_missing_path(tmp_path):
    with pytest.raises(UserError, match="nothere: no such file or folder"):
        load_tokenizer(tmp_path / "nothere")


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer.json and no tokenizer.model in it"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"x", r"a.txt: not a tokenizer; give a folder"),
        ("tokenizer.json", b"{", r"tokenizer.json: not valid JSON"),
        ("tokenizer.json", b"[]", r"tokenizer.json: holds a list; an object is needed"),
        ("tokenizer.json", b"\xff", r"tokenizer.json: not UTF-8 text \(byte 0\)"),
        ("tokenizer.json", b"{}", r"tokenizer.json: not a tokenizer that can be read"),
        ("tokenizer.model", b"junk", r"tokenizer.model: not a SentencePiece model"),
        ("tokenizer.model", b"", r"tokenizer.model: not a SentencePiece model"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", r"a tiktoken rank file \(Llama 3\)"),
        ("m.gguf", b"GGUF", r"m.gguf"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path / name)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"eos_token": "<nope>"}, "the vocabulary lacks eos_token '<nope>'"),
        ({"chat_template": 3}, "tokenizer_config.json: chat_template is a int, not text"),
        (
            {"chat_template": [{"name": "rag", "template": "x"}]},
            "chat_template holds rag but none named 'default'",
        ),
    ],
)
def test_bad_configurations(tmp_path, config, message):
    with pytest.raises(UserError, match=message):
        load_tokenizer(save(tmp_path, **config))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": "rwkv"}, "tokenizer model 'rwkv' is not supported"),
        ({"model": None}, "tokenizer.ggml.model is missing; no tokenizer in it"),
        ({"tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokens": "x"}, "tokenizer.ggml.tokens is a str, not a list"),
        ({"pre": "qwen9"}, "tokenizer.ggml.pre 'qwen9' is not supported .*smollm"),
        ({"merges": ["abc"]}, "tokenizer.ggml.merges holds something not a pair"),
        ({"merges": ["zz qq"]}, "m.gguf: not a tokenizer that can be read"),
        ({"merges": [1]}, "tokenizer.ggml.merges holds a int, not only str"),
        ({"tokens": ["a", 1]}, "tokenizer.ggml.tokens holds a int, not only str"),
        ({"token_type": [1]}, "tokens but 1 token types; the file is damaged"),
        ({"eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id 1000000 is outside"),
    ],
)
def test_bad_gguf_fields(change, message):
    fields = gguf_bpe_fields()
    for name, value in change.items():
        fields[f"tokenizer.ggml.{name}"] = value
    with pytest.raises(UserError, match=message):
        gguf_tokenizer({k: v for k, v in fields.items() if v is not None}, "m.gguf")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": [0.0]}, "tokens but 1 scores"),
        ({"unknown_token_id": 10**6}, "tokenizer.ggml.unknown_token_id 1000000 is outside"),
    ],
)
def test_bad_gguf_llama_fields(change, message):
    fields = gguf_llama_fields()
    fields.update({f"tokenizer.ggml.{name}": value for name, value in change.items()})
    with pytest.raises(UserError, match=message):
        gguf_tokenizer(fields, "m.gguf")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        BYTES.save(tmp_path / "file" / "sub")


def test_sentencepiece_with_added_tokens(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    config = {"added_tokens_decoder": {"400": {"content": "<pad>"}}, "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path)
    assert (loaded.pad_id, loaded.vocab_size) == (400, 401)
    config["added_tokens_decoder"] = {"405": {"content": "<pad>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="added tokens do not follow the model's 400 pieces"):
        load_tokenizer(tmp_path)


def test_special_texts_are_those_of_the_files():
    assert set(tiny_tokenizer("llama3").special_tokens) == set(SPECIAL["llama3"])
    assert set(tiny_tokenizer("llama2").special_tokens) == set(SPECIAL["llama2"])
