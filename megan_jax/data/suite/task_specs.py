"""All tasks of the suite, in a fixed order. Needs no reasoning-gym; `make_tasks` does."""

from __future__ import annotations

from megan_jax.data.suite.task_forms import TaskSpec
from megan_jax.data.suite.task_lists import LISTS
from megan_jax.data.suite.task_puzzles import PUZZLES
from megan_jax.data.suite.task_sums import SUMS
from megan_jax.data.suite.task_words import WORDS

SPECS: tuple[TaskSpec, ...] = (*WORDS, *LISTS, *SUMS, *PUZZLES)
