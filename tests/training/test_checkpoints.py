"""Checkpoints: what comes back is what was saved, and what is not whole is never used."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from megan_jax.errors import UserError
from megan_jax.training import checkpoints
from megan_jax.training.checkpoints import Checkpoints, load_parameters

ROOT = Path(checkpoints.__file__).parents[2]
FINGERPRINTS = {"base_model": {"source": "models/a", "fingerprint": "aaaa"}}
META = {"config": {"train": {"steps": 3}, "types": ("task", "style")}, "fingerprints": FINGERPRINTS}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


@flax.struct.dataclass
class State:
    trainable: dict
    opt_state: tuple
    step: jax.Array


def make_state(width: int = 16, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    trainable = {
        "hyper": {
            "query_proj": {"kernel": normal(8, width), "bias": normal(width)},
            "beta_layers_0": {"kernel": normal(width, 40).astype(jnp.bfloat16)},
        }
    }
    opt_state = OPTIMIZER.init(trainable)
    gradients = jax.tree.map(lambda x: x + 1, trainable)
    _, opt_state = OPTIMIZER.update(gradients, opt_state, trainable)
    return State(trainable, opt_state, jnp.asarray(seed, jnp.int32))


def assert_same(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save_steps(directory: Path, *steps: int, keep: int = 9) -> None:
    with Checkpoints(directory, keep=keep) as saved:
        for step in steps:
            assert saved.save(step, make_state(seed=step), META)


def test_state_and_meta_come_back_bit_identical(tmp_path):
    save_steps(tmp_path / "c", 3)
    with Checkpoints(tmp_path / "c") as saved:
        state, meta = saved.restore(jax.eval_shape(make_state), fingerprints=FINGERPRINTS)
    assert_same(state, make_state(seed=3))
    assert meta == {
        "config": {"train": {"steps": 3}, "types": ["task", "style"]},
        "fingerprints": FINGERPRINTS,
    }


def test_only_the_newest_are_kept_and_a_saved_step_stays_as_it_is(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.latest_step() is None
        for step in (1, 2, 3):
            assert saved.save(step, make_state(seed=step), META)
        assert not saved.save(3, make_state(seed=77), META)
        saved.wait()
        assert saved.latest_step() == 3
        assert_same(saved.restore(make_state())[0], make_state(seed=3))
        assert_same(saved.restore(make_state(), step=2)[0], make_state(seed=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3"]


def test_saving_does_not_read_buffers_that_the_next_step_overwrites(tmp_path):
    update = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 5, s), donate_argnums=0)
    state = {"trainable": {"w": jnp.arange(3_000_000, dtype=jnp.float32)}}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state, {})
        state = jax.block_until_ready(update(state))
    tree, _ = load_parameters(tmp_path)
    np.testing.assert_array_equal(tree["w"], np.arange(3_000_000, dtype=np.float32))


def test_restores_into_the_given_sharding(tmp_path):
    script = f"""
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from megan_jax.training.checkpoints import Checkpoints
        mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
        split = NamedSharding(mesh, P("fsdp"))
        w = np.arange(32, dtype=np.float32).reshape(8, 4)
        with Checkpoints({str(tmp_path)!r}) as saved:
            saved.save(1, {{"trainable": {{"w": w}}}}, {{}})
            target = jax.ShapeDtypeStruct((8, 4), np.float32, sharding=split)
            state, _ = saved.restore({{"trainable": {{"w": target}}}})
        got = state["trainable"]["w"]
        assert got.sharding == split and len(got.addressable_shards) == 4
        np.testing.assert_array_equal(np.asarray(got), w)
    """
    run_script(script, XLA_FLAGS="--xla_force_host_platform_device_count=4")


def test_load_parameters_reads_the_parameters_alone_as_numpy(tmp_path):
    save_steps(tmp_path, 1, 2)
    before = sorted(tmp_path.rglob("*"))
    tree, meta = load_parameters(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(tree))
    assert_same(tree, jax.tree.map(np.asarray, make_state(seed=2).trainable))
    assert meta["fingerprints"] == FINGERPRINTS
    assert_same(load_parameters(tmp_path, 1)[0], make_state(seed=1).trainable)


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steps(Path("runs/a"), 1)
    assert_same(load_parameters("runs/a")[0], make_state(seed=1).trainable)


def broken_copies(source: Path, scratch: Path):
    """Yields copies of a checkpoint folder with one file of step 2 removed, halved or emptied."""
    files = [p for p in (source / "2").rglob("*") if p.is_file()]
    files = [p for p in files if p.name not in ("commit_success.txt", "_CHECKPOINT_METADATA")]
    assert len(files) >= 8
    for number, file in enumerate(files):
        for how in ("missing", "halved", "emptied"):
            copy = scratch / f"{number}-{how}"
            shutil.copytree(source, copy)
            target = copy / file.relative_to(source)
            if how == "missing":
                target.unlink()
            else:
                os.truncate(target, target.stat().st_size // 2 if how == "halved" else 0)
            yield copy, target


def test_every_missing_or_truncated_file_is_named_and_the_one_before_is_used(tmp_path, caplog):
    save_steps(tmp_path / "c", 1, 2)
    for copy, file in broken_copies(tmp_path / "c", tmp_path):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="megan_jax"):
            tree, _ = load_parameters(copy)
        assert_same(tree, make_state(seed=1).trainable)
        (message,) = [r.getMessage() for r in caplog.records if r.name.startswith("megan_jax")]
        assert str(file) in message and "using the checkpoint of step 1 instead" in message


def test_a_damaged_newest_checkpoint_is_set_aside_and_its_step_saved_again(tmp_path, caplog):
    save_steps(tmp_path, 1, 2)
    next((tmp_path / "2" / "state" / "d").iterdir()).unlink()
    with Checkpoints(tmp_path) as saved:
        assert saved.latest_step() == 1
        state, _ = saved.restore(make_state())
        assert_same(state, make_state(seed=1))
        assert (tmp_path / "damaged-2").is_dir() and not (tmp_path / "2").exists()
        assert saved.save(2, make_state(seed=2), META)
    assert "is missing; using the checkpoint of step 1" in caplog.text
    assert_same(load_parameters(tmp_path)[0], make_state(seed=2).trainable)


def test_damage_that_the_list_of_files_misses_is_found_while_reading(tmp_path, caplog):
    save_steps(tmp_path, 1, 2)
    metadata = tmp_path / "2" / "meta" / "metadata"
    metadata.write_bytes(b"x" * metadata.stat().st_size)
    assert_same(load_parameters(tmp_path)[0], make_state(seed=1).trainable)
    assert f"{tmp_path / '2'} cannot be read" in caplog.text


def test_an_exact_step_is_not_replaced_by_another(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / "2" / "files.json").unlink()
    with pytest.raises(UserError, match=r"no usable checkpoint.*2/files.json is missing"):
        load_parameters(tmp_path, 2)
    with pytest.raises(UserError, match=r"no checkpoint of step 7; it has: 2, 1"):
        load_parameters(tmp_path, 7)


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_parameters(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with Checkpoints(tmp_path) as saved, pytest.raises(UserError, match="there is no checkpoint"):
        saved.restore(make_state())


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path):
    save_steps(tmp_path, 1, 2)
    for step in ("1", "2"):
        (tmp_path / step / "meta" / "metadata").unlink()
    message = r"no usable checkpoint.*2/meta/metadata is missing.*1/meta/metadata is missing"
    with Checkpoints(tmp_path) as saved:
        with pytest.raises(UserError, match=message):
            saved.latest_step()
        with pytest.raises(UserError, match=message):
            saved.restore(make_state())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_an_unfinished_save_is_not_a_checkpoint_and_is_removed(tmp_path):
    save_steps(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "5.orbax-checkpoint-tmp")
    assert_same(load_parameters(tmp_path)[0], make_state(seed=1).trainable)
    assert (tmp_path / "5.orbax-checkpoint-tmp").exists()  # a reader leaves a writer's files alone
    with Checkpoints(tmp_path) as saved:
        assert saved.latest_step() == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]


def test_another_configuration_names_the_differing_leaves(tmp_path):
    save_steps(tmp_path, 1)
    other = jax.eval_shape(lambda: make_state(width=32))
    other.trainable["hyper"]["extra"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    with Checkpoints(tmp_path) as saved, pytest.raises(UserError) as caught:
        saved.restore(other)
    message = str(caught.value)
    assert f"{tmp_path / '1'} was saved under another configuration" in message
    assert (
        "trainable/hyper/query_proj/kernel: float32[8,16] in the checkpoint, "
        "float32[8,32] in this configuration" in message
    )
    assert "trainable/hyper/extra: absent in the checkpoint, float32[3]" in message
    assert "more" in message  # the optimizer's copies are counted, not listed
    assert (tmp_path / "1").is_dir()


def test_another_base_model_names_both(tmp_path):
    save_steps(tmp_path, 1)
    other = {"base_model": {"source": "models/b", "fingerprint": "bbbb"}}
    with Checkpoints(tmp_path) as saved, pytest.raises(UserError) as caught:
        saved.restore(make_state(), fingerprints=other)
    message = str(caught.value)
    assert "another base model" in message
    assert all(text in message for text in ("models/a", "aaaa", "models/b", "bbbb"))


def test_a_state_without_trainable_parameters_is_a_mistake_of_the_caller(tmp_path):
    with Checkpoints(tmp_path) as saved, pytest.raises(ValueError, match="no `trainable` part"):
        saved.save(1, {"params": jnp.ones(3)}, {})


def test_too_little_space_is_found_before_anything_is_written(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with Checkpoints(tmp_path) as saved, pytest.raises(UserError) as caught:
        saved.save(2, make_state(), META)
    assert "checkpoint of step 2 could not be saved" in str(caught.value)
    assert "no space left" in str(caught.value)
    assert f"The newest checkpoint is {tmp_path / '1'}" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]


def run_script(script: str, *prefix: str, **environment: str) -> subprocess.CompletedProcess:
    command = [*prefix, sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


SAVE_AND_FAIL = """
    import numpy as np, os, resource, shutil, signal, sys
    from megan_jax.errors import UserError
    from megan_jax.training.checkpoints import Checkpoints
    folder = {folder!r}
    state = {{"trainable": {{"w": np.random.default_rng(0).normal(size=150_000)}}}}
    with Checkpoints(folder) as saved:
        saved.save(1, {{"trainable": {{"w": np.ones(3)}}}}, {{}})
        saved.wait()
        {before}
        try:
            saved.save(2, state, {{}})
            saved.wait()
            print("saved")
        except UserError as error:
            print(error)
        {after}
        print(sorted(os.listdir(folder)), saved.latest_step())
        saved.save(3, {{"trainable": {{"w": np.ones(3)}}}}, {{}})
        saved.wait()
        print(saved.latest_step())
"""


def test_a_write_that_fails_halfway_leaves_nothing_behind(tmp_path):
    """A limit on file sizes makes TensorStore's own write fail, as a full disk would."""
    before = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))"
    )
    after = "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))"
    folder = str(tmp_path / "c")
    lines = run_script(
        SAVE_AND_FAIL.format(folder=folder, before=before, after=after)
    ).stdout.splitlines()
    assert lines[0].startswith("the checkpoint of step 2 could not be saved:")
    assert "larger than" in lines[0]
    assert lines[1:] == ["['1'] 1", "3"]


def can_mount() -> bool:
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
@pytest.mark.parametrize("kind", ["full", "full halfway", "read-only"])
def test_a_full_disk_and_a_read_only_folder(tmp_path, kind):
    disk = tmp_path / "disk"
    disk.mkdir()
    fill = f"open({str(disk / 'fill')!r}, 'wb').write(bytes(600_000))"
    unchecked = "shutil.disk_usage = lambda path: type('', (), {'free': 1 << 40})()"
    before, after, expected = {
        "full": (fill, f"os.remove({str(disk / 'fill')!r})", "no space left on the device"),
        "full halfway": (
            f"{fill}; {unchecked}",
            f"os.remove({str(disk / 'fill')!r})",
            "no space left on the device",
        ),
        "read-only": (
            f"os.system('mount -o remount,ro {disk}')",
            f"os.system('mount -o remount,rw {disk}')",
            "the file system is read-only",
        ),
    }[kind]
    script = SAVE_AND_FAIL.format(folder=str(disk / "c"), before=before, after=after)
    mount = f'mount -t tmpfs -o size=1536k none {disk} && exec "$@"'
    done = run_script(script, "unshare", "-rm", "sh", "-c", mount, "sh")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"the checkpoint of step 2 could not be saved: {disk / 'c'}")
    assert expected in lines[0] and f"The newest checkpoint is {disk / 'c' / '1'}" in lines[0]
    assert lines[1:] == ["['1'] 1", "3"]
    if kind != "full halfway":
        assert done.stderr == ""


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
def test_a_run_on_a_read_only_disk_can_be_used(tmp_path):
    save_steps(tmp_path, 1)
    script = f"""
        from megan_jax.training.checkpoints import load_parameters
        print(load_parameters({str(tmp_path)!r})[0]["hyper"]["query_proj"]["kernel"].shape)
    """
    mount = (
        f'mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path} && exec "$@"'
    )
    done = run_script(script, "unshare", "-rm", "sh", "-c", mount, "sh")
    assert (done.stdout, done.stderr) == ("(8, 16)\n", "")


def test_nothing_but_our_own_warnings_reaches_the_terminal(tmp_path):
    script = f"""
        import os, jax.numpy as jnp
        from absl import logging
        logging.set_verbosity(logging.INFO)
        from megan_jax.training.checkpoints import Checkpoints, load_parameters
        state = {{"trainable": {{"w": jnp.ones((30, 30))}}, "step": 3}}
        with Checkpoints({str(tmp_path)!r}) as saved:
            saved.save(1, state, {{}})
            saved.save(2, state, {{}})
            saved.restore(state)
        load_parameters({str(tmp_path)!r})
        os.remove({str(tmp_path / "2" / "files.json")!r})
        load_parameters({str(tmp_path)!r})
    """
    done = run_script(script)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith("2/files.json is missing; using the checkpoint of step 1 instead.")


def test_killed_while_saving_the_older_checkpoint_is_whole(tmp_path):
    script = f"""
        import os, threading, time, jax.numpy as jnp, numpy as np
        from pathlib import Path
        from megan_jax.training.checkpoints import Checkpoints
        folder = Path({str(tmp_path)!r})
        saved = Checkpoints(folder)
        saved.save(1, {{"trainable": {{"w": np.full(10, 7.0)}}}}, {{}})
        saved.wait()
        saved.save(2, {{"trainable": {{"w": np.random.normal(size=4_000_000)}}}}, {{}})
        while not any(folder.glob("2.*")):
            pass
        os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, timeout=60)
    assert done.returncode == -9
    assert any(tmp_path.glob("2.*")) and not (tmp_path / "2").exists()
    np.testing.assert_array_equal(load_parameters(tmp_path)[0]["w"], np.full(10, 7.0))
