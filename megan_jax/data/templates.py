"""Chat templates: the named fallbacks and a sandboxed Jinja2 renderer with a fixed date."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from megan_jax.errors import UserError, nearest

DEFAULT_DATE = "2024-07-26"  # what Llama 3's own templates fall back to

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('user and assistant must take turns, the user first') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{% set content = (system if loop.first else '') + message['content'] %}"
    "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}"
    "{% else %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{% endif %}"
    "{% endfor %}"
)

# The special tokens that a fallback cannot do without; `bos`, `eos` stand for the tokenizer's own.
FALLBACKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama3": (LLAMA3, ("bos", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "llama2": (LLAMA2, ("bos", "eos")),
}


class _Generation(jinja2.ext.Extension):
    """Accepts `{% generation %}`, with which some templates mark the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 (the name and type that Jinja2 asks for)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def parse_date(date: str) -> datetime.date:
    """The day that an ISO date (2024-07-26) names; UserError for anything else."""
    try:
        return datetime.date.fromisoformat(date)
    except (TypeError, ValueError):
        raise UserError(f"date {date!r} is not a day like {DEFAULT_DATE!r}.") from None


def render_template(
    source: str,
    messages: Sequence[Mapping[str, str]],
    *,
    special: Mapping[str, str],
    date: str = DEFAULT_DATE,
    add_generation_prompt: bool = False,
) -> str:
    """The text that a chat template makes of a conversation.

    Args:
      source: Jinja2 source, as in tokenizer_config.json.
      messages: dictionaries with `role` and `content`.
      special: template variables such as `bos_token` and `eos_token`.
      date: the day that `strftime_now` and `date_string` tell, ISO.
      add_generation_prompt: end with the header of an assistant's turn.

    Raises:
      UserError: the template does not parse, refuses the conversation or reaches out of the
        sandbox.
    """
    day = parse_date(date)
    try:
        return _compiled(source).render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            date_string=day.strftime("%d %b %Y"),
            strftime_now=day.strftime,
            **special,
        )
    except _TemplateRefusal as error:
        raise UserError(f"the chat template refuses this conversation: {error}.") from None
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"the chat template has a syntax error on line {error.lineno}: {error.message}; name "
            f"one of {', '.join(FALLBACKS)} instead."
        ) from None
    except Exception as error:  # a template is a program that a stranger wrote
        raise UserError(
            f"the chat template fails on this conversation: {type(error).__name__}: {error}; name "
            f"one of {', '.join(FALLBACKS)} instead."
        ) from None


class _TemplateRefusal(Exception):
    """`raise_exception` was called by a template."""


def _raise_exception(message: object) -> None:
    raise _TemplateRefusal(str(message).rstrip("."))


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(source)


def resolve_template(tokenizer: Any, template: str | None = None) -> str:
    """Jinja2 source: of a named fallback, `template` itself, or the tokenizer's own for None.

    Raises:
      UserError: there is no template, the name is unknown, or the tokenizer lacks a special
        token that the fallback needs.
    """
    if template is None:
        if not tokenizer.chat_template:
            raise UserError(
                "this tokenizer has no chat template; set tokenizer.chat_template to one of "
                f"{', '.join(FALLBACKS)} or to a template's source."
            )
        return tokenizer.chat_template
    if "{" in template:
        return template
    if template not in FALLBACKS:
        raise UserError(
            f"unknown chat template {template!r}; it is one of {', '.join(FALLBACKS)} or Jinja2 "
            f"source.{nearest(template, FALLBACKS)}"
        )
    source, needed = FALLBACKS[template]
    own = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    missing = [name for name in needed if own.get(name, tokenizer.special_tokens.get(name)) is None]
    if missing:
        raise UserError(
            f"chat template {template!r} needs the special tokens {', '.join(missing)}, which "
            "this tokenizer lacks."
        )
    return source
