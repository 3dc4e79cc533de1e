"""`python -m megan_jax.data check FILE`: every problem of a JSONL file, with line and field."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from megan_jax.data.example import CONDITION_TYPES
from megan_jax.data.jsonl import check_file
from megan_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, or 1 if there is a problem."""
    parser = argparse.ArgumentParser(prog="python -m megan_jax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="print every problem of a JSONL file")
    check.add_argument("file", metavar="FILE")
    check.add_argument(
        "--condition-type",
        choices=CONDITION_TYPES,
        help="the type of the conditions (default: inferred from the field that holds them)",
    )
    arguments = parser.parse_args(argv)
    try:
        return 1 if check_file(arguments.file, arguments.condition_type) else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
