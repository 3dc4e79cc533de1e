"""`python -m megan_jax.generate`: answers under a condition, once, for a file, or in a chat."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megan_jax.commands import run_command
from megan_jax.errors import UserError

if TYPE_CHECKING:
    from megan_jax.data.requests import Request

DESCRIPTION = """Answers under a condition written in plain text.

  python -m megan_jax.generate --model runs/quickstart --condition "a line of verse by Milton" \\
      --prompt "Write a short passage."
  python -m megan_jax.generate --model runs/quickstart --interactive
  python -m megan_jax.generate --model runs/quickstart --input in.jsonl --output out.jsonl

PATH is a run folder, a Hugging Face or MeGan folder, a .gguf file, smollm2-135m-instruct, or
`pretrained`, the hypernetwork that comes with the package. Without --condition (or with None) the
base model answers. In the chat, /condition TEXT changes the condition, /condition None removes it,
/reset forgets the conversation, /quit ends it. The hypernetwork reads a condition as it is written
here. Each line of --input is {"prompt": TEXT} with an optional "condition", or a row of messages as
in training; the output repeats it with "response"."""

CHAT_HELP = "/condition TEXT or None, /reset, /quit"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="megan_jax.generate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, metavar="PATH")
    parser.add_argument("--condition", metavar="TEXT", help="None: the base model")
    parser.add_argument("--prompt", metavar="TEXT")
    parser.add_argument("--interactive", action="store_true", help="chat")
    parser.add_argument("--input", metavar="IN.jsonl")
    parser.add_argument("--output", metavar="OUT.jsonl")
    parser.add_argument(
        "--system", default="", metavar="TEXT", help="system message (default: the run's)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument(
        "--chat-template",
        metavar="NAME",
        help="llama3, llama2, chatml or a Jinja2 file (default: the run's, or the model's own)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def parse_condition(text: str | None) -> str | None:
    """None for no condition; an empty text is refused.

    Raises:
      UserError: a condition of white space only.
    """
    if text is None or text == "None":
        return None
    if not text.strip():
        raise UserError(
            "the condition is empty. Write one, or leave --condition out (or say None) to run the "
            "base model."
        )
    return text


def check(arguments: argparse.Namespace) -> None:
    """Refuses combinations that make no sense, before a model is loaded.

    Raises:
      UserError: naming the flags.
    """
    chosen = [
        name
        for name, given in (
            ("--prompt", arguments.prompt is not None),
            ("--interactive", arguments.interactive),
            ("--input", arguments.input is not None),
        )
        if given
    ]
    if len(chosen) != 1:
        got = " and ".join(chosen) if chosen else "none"
        raise UserError(f"give exactly one of --prompt, --interactive and --input; got {got}.")
    if (arguments.input is None) != (arguments.output is None):
        raise UserError("--input and --output belong together.")
    if arguments.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, got {arguments.max_new_tokens}.")
    if arguments.temperature < 0:
        raise UserError(f"--temperature must not be negative, got {arguments.temperature}.")
    if not 0 < arguments.top_p <= 1:
        raise UserError(f"--top-p must lie in (0, 1], got {arguments.top_p}.")


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    check(arguments)
    condition = parse_condition(arguments.condition)
    if arguments.input:
        from megan_jax.data.requests import read_requests
        from megan_jax.run_folder import check_writable

        requests = read_requests(Path(arguments.input), condition)
        check_writable(arguments.output)

    import jax
    import jax.numpy as jnp

    from megan_jax.data.experiment import chat_template
    from megan_jax.loading import load_model
    from megan_jax.pretrained import generate_text

    loaded = load_model(arguments.model)
    if arguments.chat_template:
        loaded.config.tokenizer.chat_template = arguments.chat_template
    params = jax.tree.map(jnp.asarray, loaded.params)
    data = loaded.config.data
    system = arguments.system or data.system_prompt

    def answer(messages: list[dict[str, str]], condition: str | None) -> str:
        if system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        return generate_text(
            loaded.model,
            params,
            loaded.tokenizer,
            messages,
            condition,
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            seed=arguments.seed,
            chat_template=chat_template(loaded.config),
            date=loaded.config.tokenizer.date,
        )

    if arguments.prompt is not None:
        print(answer([{"role": "user", "content": arguments.prompt}], condition))
    elif arguments.interactive:
        chat(answer, condition)
    else:
        # Read again only where the run asks for another form: a pipe can be read once.
        form = (data.placement, data.expression)
        if form != ("none", "raw"):
            requests = read_requests(Path(arguments.input), condition, *form)
        write_answers(requests, Path(arguments.output), answer)
    return 0


def write_answers(
    requests: Sequence[Request],
    path: Path,
    answer: Callable[[list[dict[str, str]], str | None], str],
) -> None:
    """Answers all rows into `path`, which appears when the last one is written.

    Until then they are in `NAME.partial` beside it, which stays if something goes wrong.

    Raises:
      UserError: a row that cannot be answered, by its number; a full disk.
    """
    from megan_jax.run_folder import user_errors

    partial = path.with_name(f"{path.name}.partial")
    with user_errors(partial), partial.open("w", encoding="utf-8", errors="replace") as file:
        for number, request in enumerate(requests, start=1):
            try:
                response = answer(list(request.messages), request.condition)
            except UserError as error:
                raise UserError(
                    f"row {number}: {error} The answers before it are in {partial}."
                ) from error
            file.write(json.dumps({**request.row, "response": response}, ensure_ascii=False) + "\n")
            file.flush()
            if sys.stderr.isatty():
                print(f"\r{number}/{len(requests)}", end="", file=sys.stderr, flush=True)
        partial.replace(path)
    print(f"{len(requests)} answers: {path}")


def chat(
    answer: Callable[[list[dict[str, str]], str | None], str],
    condition: str | None,
    read: Callable[[str], str] = input,
) -> None:
    """A conversation on the terminal; ends with /quit or the end of the input."""
    print(f"condition: {condition}    ({CHAT_HELP})")
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = read("> ").strip()
        except EOFError:
            print()
            return
        if not text:
            continue
        command, _, rest = text.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            messages = []
            print("the conversation is forgotten")
        elif command == "/condition":
            try:
                condition = parse_condition(rest.strip())
            except UserError as error:
                print(f"error: {error}")
                continue
            # Earlier answers were given under another condition and would speak for it.
            messages = []
            print(f"condition: {condition}")
        elif command.startswith("/"):
            print(f"unknown command {command}; {CHAT_HELP}")
        else:
            messages.append({"role": "user", "content": text})
            try:
                reply = answer(messages, condition)
            except UserError as error:
                messages.pop()
                print(f"error: {error}")
                continue
            messages.append({"role": "assistant", "content": reply})
            print(reply)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
