"""The suite as TFDS builders (ArrayRecord files, no TensorFlow), one per condition type.

The files lie in the cache under a fingerprint of the code and the packages that made them, so a
changed suite is prepared anew and never mixed up with an old one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from megan_jax.data.suite import conditions, fetch, sources, tasks
from megan_jax.data.suite.personas import PROFILES
from megan_jax.data.suite.splits import SPLITS, Row, choose_unseen, split_rows

# Rows of an evaluation split, of each type.
EVAL_SIZE = 200
# Files of this package that don't shape the rows.
SHAPELESS = ("__init__.py", "__main__.py", "fetch.py", "make_tasks.py")


@dataclasses.dataclass(frozen=True)
class Written:
    """A row under one wording of its condition: what a builder stores."""

    row: Row
    condition: tuple[str, ...]
    paraphrases: tuple[str, ...]


@dataclasses.dataclass(kw_only=True)
class SuiteConfig(tfds.core.BuilderConfig):
    """A builder's configuration.

    Attributes:
      seed: draws which conditions are unseen, and which rows go where.
    """

    seed: int = 0


def suite_config(seed: int) -> SuiteConfig:
    """Returns the configuration for a seed."""
    return SuiteConfig(name=f"seed{seed}", seed=seed)


class _LocalInfo(tfds.core.DatasetInfo):
    """Information that is never looked up in TFDS' bucket: the suite makes no network access."""

    def initialize_from_bucket(self) -> None:
        return


class _SuiteBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the builders share; a subclass says how to make and divide the rows."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks for a file of download checksums beside this path; there is none, and looking
    # would need a package that TFDS doesn't declare.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
        return _LocalInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "key": text,
                    "condition": texts,
                    "paraphrases": texts,
                    "prompt": text,
                    "response": text,
                    "options": texts,
                }
            ),
            # The order is balanced over the conditions, so that any beginning of a split is.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        config = self.builder_config
        written = self.written(config.seed if isinstance(config, SuiteConfig) else 0)
        return {split: self._generate_examples(written[split]) for split in SPLITS}

    def _generate_examples(self, written: list[Written]) -> Iterator[tuple[int, dict]]:
        for i, item in enumerate(written):
            yield (
                i,
                {
                    "key": item.row.key,
                    "condition": list(item.condition),
                    "paraphrases": list(item.paraphrases),
                    "prompt": item.row.prompt,
                    "response": item.row.response,
                    "options": list(item.row.options),
                },
            )

    def written(self, seed: int) -> dict[str, list[Written]]:
        """All splits for a seed."""
        raise NotImplementedError


def _unseen(keys: Iterable[str], count: int, seed: int, kind: str) -> frozenset[str]:
    return choose_unseen(keys, count, seed, kind, conditions.ALWAYS_SEEN.get(kind, ()))


def _by_wording(
    splits: dict[str, list[Row]], wordings: Mapping[str, tuple[str, ...]], seed: int, name: str
) -> dict[str, list[Written]]:
    """Writes every row under one of its condition's wordings, drawn from (seed, name, split)."""
    result = {}
    for split, rows in splits.items():
        rng = random.Random(f"{seed}/{name}/{split}/wordings")
        result[split] = [_worded(row, wordings[row.key], rng) for row in rows]
    return result


def _worded(row: Row, wordings: tuple[str, ...], rng: random.Random) -> Written:
    chosen = rng.randrange(len(wordings))
    others = wordings[:chosen] + wordings[chosen + 1 :]
    return Written(row, (wordings[chosen],), others)


class SuiteDomain(_SuiteBuilder):
    """Passages on a country; the condition is the section of the World Factbook they are from."""

    def written(self, seed: int) -> dict[str, list[Written]]:
        rows = sources.domain_rows()
        unseen = _unseen((row.key for row in rows), 2, seed, "domain")
        splits = split_rows(rows, unseen, seed, "domain", 600, EVAL_SIZE)
        return _by_wording(splits, conditions.SECTIONS, seed, "domain")


class SuiteStyle(_SuiteBuilder):
    """Short passages; the condition describes the kind of text."""

    def written(self, seed: int) -> dict[str, list[Written]]:
        rows = sources.style_rows()
        unseen = _unseen((row.key for row in rows), 3, seed, "style")
        splits = split_rows(rows, unseen, seed, "style", 500, EVAL_SIZE)
        return _by_wording(splits, conditions.STYLES, seed, "style")


class SuitePersona(_SuiteBuilder):
    """Dialogue from plays; the condition is the profile of the character who answers."""

    def written(self, seed: int) -> dict[str, list[Written]]:
        rows = sources.persona_rows()
        unseen = _unseen((row.key for row in rows), 12, seed, "persona")
        splits = split_rows(rows, unseen, seed, "persona", 120, EVAL_SIZE)
        result = {}
        for split, kept in splits.items():
            result[split] = [Written(row, *_profile(row.key)) for row in kept]
        return result


def _profile(key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A character's profile lines, and the profile in other orders and in the third person."""
    play, speaker = key.split("/")
    lines = PROFILES[play][speaker]
    rotated = "\n".join(lines[1:] + lines[:1])
    return lines, (rotated, "The speaker says: " + " ".join(lines))


class SuiteSentiment(_SuiteBuilder):
    """One-line film reviews; the condition says, in many wordings, whether it is favourable."""

    def written(self, seed: int) -> dict[str, list[Written]]:
        rows = sources.sentiment_rows()
        splits = split_rows(rows, frozenset(), seed, "sentiment", 2000, EVAL_SIZE)
        # Both polarities lose the same wordings, which come in pairs.
        number = len(conditions.SENTIMENTS["positive"])
        unseen = _unseen(map(str, range(number)), 3, seed, "sentiment")
        result: dict[str, list[Written]] = {}
        for split, kept in splits.items():
            wanted = {
                key: tuple(w for i, w in enumerate(all_) if (str(i) in unseen) == ("un" in split))
                for key, all_ in conditions.SENTIMENTS.items()
            }
            result |= _by_wording({split: kept}, wanted, seed, "sentiment")
        return result


class SuiteTask(_SuiteBuilder):
    """Small puzzles that don't say what is wanted; the condition describes the task."""

    def written(self, seed: int) -> dict[str, list[Written]]:
        rows, descriptions = tasks.load()
        unseen = _unseen(descriptions, 8, seed, "task")
        splits = split_rows(rows, unseen, seed, "task", 200, EVAL_SIZE)
        return _by_wording(splits, descriptions, seed, "task")


BUILDERS: dict[str, type[_SuiteBuilder]] = {
    "task": SuiteTask,
    "domain": SuiteDomain,
    "persona": SuitePersona,
    "style": SuiteStyle,
    "sentiment": SuiteSentiment,
}


@functools.lru_cache(maxsize=1)
def fingerprint() -> str:
    """Twelve hexadecimal digits for everything that shapes the rows: code, tasks and packages."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*")):
        if path.suffix in (".py", ".gz", ".txt") and path.name not in SHAPELESS:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def prepare(kind: str, data_dir: Path | None, seed: int) -> tuple[str, Path, SuiteConfig]:
    """Makes sure that the rows of a type are prepared; returns what `tfds.data_source` needs.

    Args:
      kind: the condition type.
      data_dir: where the ArrayRecord files go; None is a folder in the cache.
      seed: see `SuiteConfig`.

    Returns:
      (the builder's registered name, its data_dir, its configuration).

    Raises:
      UserError: the texts can't be fetched, or the folder can't be written.
    """
    root = (data_dir or fetch.cache_dir() / "suite") / fingerprint()
    config = suite_config(seed)
    with fetch.disk_errors(f"the suite's {kind} rows", root), quiet():
        builder = BUILDERS[kind](data_dir=str(root), config=config, file_format="array_record")
        builder.download_and_prepare()
    return builder.name, root, config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS' notices and progress bars from the terminal."""
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
        tfds.enable_progress_bar()
