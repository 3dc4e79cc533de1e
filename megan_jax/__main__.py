"""`python -m megan_jax COMMAND …`, and the installed `megan` command."""

from __future__ import annotations

import sys

from megan_jax.commands import megan, run_command


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    return run_command(megan, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
