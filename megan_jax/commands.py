"""What every command shares: one message instead of a traceback, exit codes, and `megan X`.

An entry point is a module with `main(argv: list[str]) -> int` and, at its end,

    if __name__ == "__main__":
        sys.exit(run_command(main, sys.argv[1:]))

Exit codes: 0 done, 1 something the user can mend (one "error: …" line), 2 wrong usage,
130 Ctrl-C, 141 the reader of the output went away.
"""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence

from megan_jax.errors import UserError, nearest
from megan_jax.run_folder import explain_os_error, package_version

# name: (module with main, what it does)
COMMANDS = {
    "train": ("megan_jax.train", "train a hypernetwork, or go on with an interrupted run"),
    "evaluate": (
        "megan_jax.evaluate",
        "loss and accuracy under matching, mismatched and no condition",
    ),
    "generate": ("megan_jax.generate", "answer prompts under a condition; --interactive chats"),
    "convert": ("megan_jax.convert.__main__", "weights to Hugging Face or MeGan (PyTorch) layout"),
    "data": ("megan_jax.data.__main__", "check a data file and print every problem in it"),
}

# Read by C++ libraries when they are loaded, so they must be set before `import jax`.
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "GRPC_VERBOSITY": "ERROR"}


def run_command(main: Callable[[list[str]], int | None], argv: Sequence[str]) -> int:
    """Runs `main(argv)` and turns how it ended into an exit code.

    A `UserError`, a full disk or a missing permission becomes one line on stderr and 1; the
    traceback is printed before it if the environment variable MEGAN_TRACEBACK is 1. Any other
    exception is a bug and goes through with its traceback.
    """
    _prepare()
    try:
        code = main(list(argv))
        sys.stdout.flush()
        return code or 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        return _fail(str(stop.code))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        message = explain_os_error(error)
        if message is None:
            error.add_note(_BUG)
            raise
        return _fail(message)
    except Exception as error:
        error.add_note(_BUG)
        raise


def command_line(command: str, argv: Sequence[str]) -> str:
    """Returns the shell line that runs `command`, e.g. for the resume message.

    By way of launch.sh where that started this program (it says so in MEGAN_LAUNCHER): the
    environment that it made has no name on the user's path.
    """
    launcher = os.environ.get("MEGAN_LAUNCHER")
    program = [launcher, command] if launcher else ["python", "-m", f"megan_jax.{command}"]
    return shlex.join([*program, *argv])


def megan(argv: Sequence[str]) -> int:
    """The `megan` command: runs the subcommand `argv[0]` with the other arguments.

    Raises:
      UserError: an unknown subcommand; the nearest one is suggested.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(package_version())
        return 0
    name, rest = argv[0], list(argv[1:])
    if name not in COMMANDS:
        raise UserError(
            f"there is no command {name!r}.{nearest(name, COMMANDS)} `megan --help` lists them all."
        )
    return importlib.import_module(COMMANDS[name][0]).main(rest)


def usage() -> str:
    """Returns the help text of `megan`: the subcommands with one line each."""
    lines = [f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: megan COMMAND ...   (or: python -m megan_jax.COMMAND ...)",
            "",
            *lines,
            "",
            "`megan COMMAND --help` explains one.",
            "The environment variable MEGAN_TRACEBACK=1 shows where an error came from.",
        ]
    )


_BUG = "This is a bug in megan_jax: please report it with the lines above."


def _fail(message: str) -> int:
    if os.environ.get("MEGAN_TRACEBACK") == "1":
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return 1


def _prepare() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logger = logging.getLogger("megan_jax")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_LowercaseLevel("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


class _LowercaseLevel(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text.replace(record.levelname, record.levelname.lower(), 1)
