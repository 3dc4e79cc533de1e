"""Chat templates: ids as Hugging Face makes them, loss masks, injection, refusals."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from megan_jax.data.chat import encode_chat, stop_ids
from megan_jax.data.example import Message
from megan_jax.data.templates import FALLBACKS, render_template, resolve_template
from megan_jax.data.tokenizers import byte_tokenizer
from megan_jax.errors import UserError
from tests.data.tiny_tokenizers import NAMES, SPECIAL, bpe_spec, tiny_tokenizer

USER, REPLY = Message("user", "Who are you?"), Message("assistant", "The dog.")
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "llama2": "</s>"}
# Written out by hand from the models' documentation.
EXPECTED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\nThe dog.<|im_end|>\n"
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nThe dog.<|eot_id|>"
    ),
    "llama2": ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho are you? [/INST] The dog. </s>"),
}
ANY = [text for texts in SPECIAL.values() for text in texts]
PLAIN = st.lists(
    st.sampled_from(
        ["The", " dog", "  ", "\n", "\n\n", " ", "12", "é", "😀", "don't", ";", "<", "|"]
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), max_size=3),
    max_size=6,
).map("".join)
HOSTILE = st.lists(st.sampled_from([*ANY, "a ", "[INST]", "\n", "<|im_"]), max_size=5).map("".join)


def masked(tokenizer, encoded) -> list[int]:
    return [number for number, on in zip(encoded.ids, encoded.loss_mask, strict=True) if on]


@pytest.mark.parametrize("kind", FALLBACKS)
def test_fallback_templates_write_what_the_models_know(kind):
    tokenizer = tiny_tokenizer(kind)
    encoded = encode_chat(tokenizer, kind, "Be brief.", [USER, REPLY])
    assert tokenizer.decode(encoded.ids, skip_special=False) == EXPECTED[kind]
    answer = masked(tokenizer, encoded)
    assert answer[-1] == tokenizer.special_tokens[END[kind]]
    assert tokenizer.decode(answer).strip(" ") == "The dog."
    assert stop_ids(tokenizer, kind)[0] == answer[-1]


@pytest.mark.parametrize("kind", ["chatml", "llama3"])
@given(system=PLAIN, turns=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_ids_are_those_of_the_whole_rendered_text(kind, system, turns):
    messages = [
        Message(role, text)
        for pair in turns
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    spoken = ([{"role": "system", "content": system}] if system else []) + [
        {"role": message.role, "content": message.content} for message in messages
    ]
    source = resolve_template(tiny_tokenizer(kind), kind)
    text = render_template(source, spoken, special=NAMES[kind])
    reference = tokenizers.Tokenizer.from_str(bpe_spec(kind)).encode(text, add_special_tokens=False)
    assert encode_chat(tiny_tokenizer(kind), kind, system, messages).ids == reference.ids


@pytest.mark.parametrize("kind", FALLBACKS)
@given(user=HOSTILE, reply=HOSTILE)
@settings(max_examples=60, deadline=None)
def test_special_text_in_content_stays_text(kind, user, reply):
    """As many special tokens as with innocent content: a user cannot end a turn."""
    tokenizer = tiny_tokenizer(kind)
    user, reply = f"u{user}u", f"r{reply}r"
    encoded = encode_chat(tokenizer, kind, "", [Message("user", user), Message("assistant", reply)])
    innocent = encode_chat(tokenizer, kind, "", [USER, REPLY])
    special = set(tokenizer.special_tokens.values())
    assert [n for n in encoded.ids if n in special] == [n for n in innocent.ids if n in special]
    answer = tokenizer.decode(masked(tokenizer, encoded)[:-1])
    assert (answer.strip(" ") if kind == "llama2" else answer) == reply
    assert tokenizer.decode(encoded.ids).count(user) >= 1


@pytest.mark.parametrize("kind", FALLBACKS)
@given(turns=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_mask_covers_each_response_and_its_end(kind, turns):
    """Responses that do not begin with white space (which may merge with the header's)."""
    tokenizer = tiny_tokenizer(kind)
    replies = [f"x{reply}" for _, reply in turns]
    messages = []
    for (user, _), reply in zip(turns, replies, strict=True):
        messages += [Message("user", user), Message("assistant", reply)]
    wanted = [reply.strip() if kind != "chatml" else reply for reply in replies]
    for loss_on, expected in (("all", wanted), ("last", wanted[-1:])):
        encoded = encode_chat(tokenizer, kind, "", messages, loss_on=loss_on)
        ends = tokenizer.special_tokens[END[kind]]
        answers, current = [], []
        for number in masked(tokenizer, encoded):
            current.append(number)
            if number == ends:
                answers.append(tokenizer.decode(current))
                current = []
        assert not current
        if kind == "llama2":  # it writes a space before </s>, which the model has to say too
            assert all(answer.endswith(" ") for answer in answers)
            answers = [answer.removesuffix(" ") for answer in answers]
        assert answers == expected


@pytest.mark.parametrize("kind", FALLBACKS)
@given(user=PLAIN, reply=PLAIN)
@settings(max_examples=40, deadline=None)
def test_a_generation_prompt_is_what_stands_before_the_mask(kind, user, reply):
    tokenizer = tiny_tokenizer(kind)
    user, reply = f"u{user}", f"r{reply}"
    turns = [Message("user", user), Message("assistant", reply)]
    encoded = encode_chat(tokenizer, kind, "Sys", turns)
    prompt = encode_chat(tokenizer, kind, "Sys", turns[:1], add_generation_prompt=True)
    assert encoded.ids[: encoded.loss_mask.index(True)] == prompt.ids
    assert not any(prompt.loss_mask)


def test_a_header_keeps_the_token_that_begins_in_it():
    """ChatML ends its header in a newline; a space-led response may share a token with it."""
    tokenizer = tiny_tokenizer("chatml")
    turns = [USER, Message("assistant", "\nThe dog.")]
    encoded = encode_chat(tokenizer, "chatml", "", turns)
    reference = tokenizers.Tokenizer.from_str(bpe_spec("chatml"))
    text = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n\nThe dog.<|im_end|>\n"
    assert encoded.ids == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(masked(tokenizer, encoded)).lstrip() == "The dog."


def test_turns_before_the_first_trained_one_carry_no_loss():
    tokenizer = byte_tokenizer()
    turns = [Message("user", "a"), Message("assistant", "b"), USER, REPLY]
    for system in ("", "s"):
        encoded = encode_chat(tokenizer, None, system, turns, loss_on="all", first_trained=2)
        assert tokenizer.decode(masked(tokenizer, encoded)) == "The dog."
        encoded = encode_chat(tokenizer, None, system, turns, loss_on="all")
        assert tokenizer.decode(masked(tokenizer, encoded)) == "bThe dog."


def test_an_empty_response_is_its_end_of_turn():
    tokenizer = byte_tokenizer()
    encoded = encode_chat(tokenizer, None, "", [USER, Message("assistant", "")])
    assert masked(tokenizer, encoded) == [tokenizer.special_tokens["<|im_end|>"]]


def test_an_empty_question_under_a_template_that_strips():
    tokenizer = tiny_tokenizer("llama2")
    encoded = encode_chat(tokenizer, "llama2", "Sys", [Message("user", ""), REPLY])
    text = tokenizer.decode(encoded.ids, skip_special=False)
    assert text == "<s>[INST] <<SYS>>\nSys\n<</SYS>> [/INST] The dog. </s>"
    assert tokenizer.decode(masked(tokenizer, encoded)).strip() == "The dog."


SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATED = (
    "{%- if not date_string is defined %}{%- set date_string = 'undated' %}{%- endif %}"
    "{{ date_string }}/{{ strftime_now('%Y') }}|"
    "{%- for m in messages %}{{ '<|im_start|>' + m.content.strip() + '<|im_end|>' }}{%- endfor %}"
)
SPLIT = (
    "{% for m in messages %}{% set c = m['content'].split('</think>')[-1] %}"
    "{{ '<|im_start|>' + c + '<|im_end|>' }}{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}<|im_start|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


def text_of(template, system="", turns=(USER, REPLY), **options) -> str:
    tokenizer = byte_tokenizer()
    encoded = encode_chat(tokenizer, template, system, list(turns), **options)
    return tokenizer.decode(encoded.ids, skip_special=False)


def test_a_default_system_message_of_the_template():
    assert text_of(SMOL).startswith("<|im_start|>system\nDefault.<|im_end|>\n<|im_start|>user")
    assert text_of(SMOL, "Own.").startswith("<|im_start|>system\nOwn.<|im_end|>\n<|im_start|>user")


def test_the_date_is_the_configured_one():
    assert text_of(DATED).startswith("26 Jul 2024/2024|")
    assert text_of(DATED, date="2025-01-02").startswith("02 Jan 2025/2025|")
    padded = (Message("user", " a "), Message("assistant", "\nb\n"))
    assert text_of(DATED, turns=padded).endswith("<|im_start|>a<|im_end|><|im_start|>b<|im_end|>")


def test_templates_that_split_contents_or_mark_generations():
    assert text_of(SPLIT) == text_of(GENERATION)
    thought = (Message("user", "x</think>y"), REPLY)
    assert text_of(SPLIT, turns=thought).startswith("<|im_start|>y<|im_end|>")


@pytest.mark.parametrize(
    "template, system, turns, message",
    [
        ("{{ messages[0].content }}{{", "", (USER,), r"syntax error on line 1"),
        ("{{ raise_exception('no.') }}", "", (USER,), r"refuses this conversation: no\."),
        (SPLIT, "", (USER, Message("assistant", "t</think>a")), "changes the text of a message"),
        ("{{ messages[0].content }}", "", (USER, REPLY), r"leaves out message 1 \(assistant\)"),
        ("{{ messages[0].content * 2 }}", "", (USER,), "repeats a message"),
        ("{{ messages[1].content }}", "s", (USER,), "no place for a system message.*placement"),
        (
            "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('bad') }}"
            "{% endif %}{{ m.content }}{% endfor %}",
            "s",
            (USER,),
            "no place for a system message",
        ),
        ("{{ messages.append(1) }}", "", (USER,), "the chat template fails .*SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "", (USER,), "the chat template fails .*SecurityError"),
        ("{{ strftime_now.__self__.min }}", "", (USER,), "the chat template fails .*SecurityError"),
        ("{{ nothing.at.all }}", "", (USER,), "the chat template fails .*UndefinedError"),
        ("chatlm", "", (USER,), "unknown chat template 'chatlm'.*Did you mean 'chatml'"),
        ("llama3", "", (USER,), r"'llama3' needs the special tokens <\|start_header_id\|>"),
    ],
)
def test_templates_that_cannot_be_used(template, system, turns, message):
    with pytest.raises(UserError, match=message):
        encode_chat(byte_tokenizer(), template, system, list(turns))


def test_llama2_wants_turns_to_alternate():
    with pytest.raises(UserError, match=r"user and assistant must take turns"):
        encode_chat(tiny_tokenizer("llama2"), "llama2", "", [USER, USER])


def test_a_tokenizer_without_template():
    with pytest.raises(
        UserError, match=r"no chat template; set tokenizer.chat_template to one of chatml"
    ):
        encode_chat(tiny_tokenizer("llama2"), None, "", [USER])


def test_a_conversation_needs_a_message():
    with pytest.raises(UserError, match=r"needs at least one message"):
        encode_chat(byte_tokenizer(), None, "", [])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"date": "26 Jul"}, "date '26 Jul' is not a day like '2024-07-26'"),
        ({"loss_on": "first"}, "loss_on is 'first'; it is one of last, all"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        encode_chat(byte_tokenizer(), None, "", [USER, REPLY], **options)
