"""The one exception that means "the user can mend this", and the suggestion of a nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that a user gave or has is wrong.

    The message says what was wrong, where, and what to do. Commands print it without a traceback
    and exit with status 1; library callers catch it like any other exception.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the known name closest to `name`, or ``""``."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
