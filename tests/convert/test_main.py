"""The convert command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from megan_jax.commands import run_command
from megan_jax.convert import load
from megan_jax.convert.__main__ import main
from tests.convert.models import CASES, leaves, random_tensors, write_folder


def run(*arguments) -> int:
    return run_command(main, [str(argument) for argument in arguments])


def test_hugging_face_to_hugging_face_with_its_tokenizer(tmp_path, capsys):
    source = write_folder(tmp_path / "in")
    (source / "tokenizer.json").write_text("{}")
    (source / "training_args.bin").write_text("not for the copy")
    code = run("--source", source, "--target", tmp_path / "out", "--format", "hf")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert "written as hf" in capsys.readouterr().out
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, array in random_tensors(load(source).config).items():
        np.testing.assert_array_equal(written[name], array)


def test_a_megan_pickle_becomes_safetensors(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (source / name).write_bytes((CASES / "shared_r" / name).read_bytes())
    assert run("--source", source, "--target", tmp_path / "out", "--format", "megan-torch") == 0
    got, expected = load(tmp_path / "out"), load(CASES / "shared_r")
    assert (got.config, got.hypernet) == (expected.config, expected.hypernet)
    for name, array in leaves(expected.params).items():
        np.testing.assert_array_equal(leaves(got.params)[name], array)


def test_the_base_of_a_megan_model_only_on_request(tmp_path, capsys):
    case, out = CASES / "shared_r", tmp_path / "out"
    assert run("--source", case, "--target", out, "--format", "hf") == 1
    assert "can't hold the hypernetwork" in capsys.readouterr().err
    assert run("--source", case, "--target", out, "--format", "hf", "--merged") == 1
    assert "can't be merged into the weights" in capsys.readouterr().err
    assert not out.exists()
    assert run("--source", case, "--target", out, "--format", "hf", "--base") == 0
    assert not any("style" in name for name in load_file(out / "model.safetensors"))
    assert load(out).hypernet is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "megan-torch"], "a base model without a hypernetwork"),
        (["--format", "hf", "--source", "nowhere"], "there is no such file or folder"),
    ],
)
def test_one_line_and_exit_code_1(tmp_path, capsys, arguments, message):
    source = write_folder(tmp_path / "in")
    code = run("--source", source, "--target", tmp_path / "out", *arguments)
    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_merged_does_not_go_with_the_reference_format(tmp_path, capsys):
    options = ["--format", "megan-torch", "--merged"]
    assert run("--source", CASES / "shared_r", "--target", tmp_path / "out", *options) == 1
    assert "belong to --format hf" in capsys.readouterr().err


def test_wrong_usage(tmp_path):
    assert run("--source", tmp_path, "--target", tmp_path / "out", "--format", "onnx") == 2


def test_a_terminated_process_leaves_nothing(tmp_path):
    source = write_folder(tmp_path / "in")
    script = (
        "import os, signal, sys\n"
        "from megan_jax.commands import run_command\n"
        "from megan_jax.convert import safetensors_io\n"
        "from megan_jax.convert.__main__ import main\n"
        "def stop(file, tensor):\n"
        "    file.write(b'half'); file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "safetensors_io._write_values = stop\n"
        "sys.exit(run_command(main, sys.argv[1:]))\n"
    )
    arguments = ["--source", source, "--target", tmp_path / "out", "--format", "hf"]
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGINT
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
