"""PyTorch .bin files: tensors come out, nothing else does, and nothing runs."""

from __future__ import annotations

import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from megan_jax.convert import torch_pickle
from megan_jax.convert.torch_pickle import open_torch
from megan_jax.errors import UserError
from tests.convert.builders import Pickler, state_dict, write_state_dict, write_torch_zip
from tests.convert.models import CASES

FLOATS = np.arange(12, dtype=np.float32)


def write(tmp_path, data: bytes, storages=None, **options):
    storages = {"0": FLOATS.tobytes()} if storages is None else storages
    return write_torch_zip(tmp_path / "pytorch_model.bin", data, storages, **options)


def one_tensor(*tensor, **options) -> bytes:
    return state_dict(lambda pickler: pickler.text("w").tensor(*tensor, **options))


WHOLE = one_tensor("torch.FloatStorage", "0", 12, (3, 4))


@pytest.mark.parametrize("case", ["shared_r", "layerwise_full_h4"])
def test_recorded_files_hold_what_their_safetensors_hold(case):
    opened = open_torch(CASES / case / "pytorch_model.bin")
    expected = load_file(CASES / case / "model.safetensors")
    assert set(expected) <= set(opened)
    for name, array in expected.items():
        got = opened[name].read()
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("torch.DoubleStorage", np.float64),
        ("torch.FloatStorage", np.float32),
        ("torch.HalfStorage", np.float16),
        ("torch.BFloat16Storage", ml_dtypes.bfloat16),
        ("torch.LongStorage", np.int64),
        ("torch.IntStorage", np.int32),
        ("torch.ShortStorage", np.int16),
        ("torch.CharStorage", np.int8),
        ("torch.ByteStorage", np.uint8),
        ("torch.BoolStorage", np.bool_),
    ],
)
def test_every_storage_type(tmp_path, storage, dtype):
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    path = write(tmp_path, one_tensor(storage, "7", 6, (2, 3)), {"7": values.tobytes()})
    tensor = open_torch(path)["w"]
    assert tensor.dtype == values.dtype
    np.testing.assert_array_equal(tensor.read(), values)


def test_views_of_one_storage(tmp_path):
    def build(pickler: Pickler) -> None:
        pickler.text("all").tensor("torch.FloatStorage", "0", 12, (3, 4))
        pickler.text("turned").tensor("torch.FloatStorage", "0", 12, (4, 3), (1, 4))
        pickler.text("part").tensor("torch.FloatStorage", "0", 12, (2, 2), (4, 2), 4)
        pickler.text("last").tensor("torch.FloatStorage", "0", 12, (), (), 11)
        pickler.text("none").tensor("torch.FloatStorage", "0", 12, (0, 3), (3, 1), 12)

    opened = open_torch(write(tmp_path, state_dict(build)))
    whole = FLOATS.reshape(3, 4)
    for name, expected in {
        "all": whole,
        "turned": whole.T,
        "part": whole[1:, ::2],
        "last": FLOATS[11],
        "none": np.zeros((0, 3)),
    }.items():
        np.testing.assert_array_equal(opened[name].read(), expected)


def test_parameters_and_module_versions(tmp_path):
    pickler = Pickler().name("collections.OrderedDict").raw(b")R(").text("w")
    pickler.name("torch._utils._rebuild_parameter").raw(b"(")
    pickler.tensor("torch.FloatStorage", "0", 12, (12,)).raw(b"\x88")
    pickler.name("collections.OrderedDict").raw(b")RtRu}(").text("_metadata")
    pickler.name("collections.OrderedDict").raw(b")Rub.")
    opened = open_torch(write(tmp_path, pickler.out))
    np.testing.assert_array_equal(opened["w"].read(), FLOATS)


def test_untyped_storages_with_a_dtype(tmp_path):
    pickler = Pickler().raw(b"}(").text("w").name("torch._utils._rebuild_tensor_v3")
    pickler.raw(b"((").text("storage").name("torch.UntypedStorage").text("0").text("cpu")
    pickler.number(48).raw(b"tQ").number(2).numbers((5,)).numbers((2,)).raw(b"\x89")
    pickler.name("collections.OrderedDict").raw(b")R").name("torch.float32").raw(b"tRu.")
    opened = open_torch(write(tmp_path, pickler.out))
    np.testing.assert_array_equal(opened["w"].read(), FLOATS[2::2])


@pytest.mark.parametrize("byteorder", [b"little", None])
def test_byteorder_that_is_read(tmp_path, byteorder):
    path = write(tmp_path, WHOLE, byteorder=byteorder)
    np.testing.assert_array_equal(open_torch(path)["w"].read(), FLOATS.reshape(3, 4))


def test_big_endian_is_refused(tmp_path):
    with pytest.raises(UserError, match="big-endian"):
        open_torch(write(tmp_path, WHOLE, byteorder=b"big"))


class Runs:
    """Its pickle makes a folder when a careless reader loads it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("protocol", range(6))
def test_code_does_not_run_and_is_named(tmp_path, protocol):
    trace = tmp_path / "it-ran"
    data = pickle.dumps({"w": Runs(trace)}, protocol)
    with pytest.raises(UserError, match=r"refuses to load (posix|nt)\.mkdir"):
        open_torch(write(tmp_path, data))
    assert not trace.exists()
    # The file is a live one: Python's own unpickler falls for it.
    pickle.loads(data)
    assert trace.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", r"refuses to load os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"refuses to load os\.system"),
        (b"(X\x02\x00\x00\x00lsios\nsystem\n.", r"refuses the pickle operation INST os\.system"),
        (b"cbuiltins\neval\n.", r"refuses to load builtins\.eval"),
        (b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n.", "refuses to load torch._utils._r"),
        (b"ctorch.storage\n_load_from_bytes\n.", r"refuses to load torch\.storage\._load_from_b"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "refuses the pickle operation NEWOBJ"),
        (b"\x82\x01.", "refuses the pickle operation EXT1 1"),
        (b"Pabc\n.", "refuses the pickle operation PERSID abc"),
    ],
)
def test_other_names_and_operations_are_refused(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        open_torch(write(tmp_path, data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "malformed|ends before"),
        (b"\x80\x02}", "malformed|ends before"),
        (b".", "malformed"),
        (b"0.", "refuses the pickle operation POP"),
        (b"h\x07.", "malformed"),
        (b"]r\xff\xff\xff\xff.", "holds a list, not a dict"),
        (b"B\xff\xff\xff\x7fabc", "malformed"),
        (b"t.", "malformed"),
        (b"}(X\x01\x00\x00\x00au.", "a key without a value"),
        (b"}(K\x01K\x02u.", "a dict key of type int"),
        (b"]K\x01K\x02s.", "no dict where one should be"),
        (b"K\x01\x85.", "holds a tuple, not a dict"),
        (b"}X\x01\x00\x00\x00aK\x05s.", "'a' is a int, not a tensor"),
        (b"}X\x05\x00\x00\x00model}s.", "'model' is a dict, not a tensor"),
        (b"K\x01)R.", "a call of int"),
        (b"ctorch\nFloatStorage\n)R.", r"a call of torch\.FloatStorage"),
        (b"ccollections\nOrderedDict\n]R.", "arguments that are not a tuple"),
        (b"ccollections\nOrderedDict\n]\x85R.", "an OrderedDict with arguments"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "malformed"),
        (b"ctorch._utils\n_rebuild_parameter\nK\x01\x85R.", "a parameter of something"),
        (b"K\x01Q.", "a persistent id that is no storage"),
        (b"}K\x01b.", "attributes that are not a dict"),
        (b"K\x01K\x02\x93.", "a global name that is not text"),
    ],
)
def test_malformed_pickles(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as caught:
        open_torch(write(tmp_path, data))
    assert "pytorch_model.bin" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((13,), (1,), 0),
        ((3, 4), (4, 1), 1),
        ((3, 4), (5, 1), 0),
        ((2,), (2**40,), 0),
        ((1,), (1,), 12),
        ((2**40, 2**40), (0, 0), 0),
        ((13,), (0,), 0),
        ((0,), (1,), 13),
    ],
)
def test_tensors_beyond_their_storage(tmp_path, shape, strides, offset):
    data = one_tensor("torch.FloatStorage", "0", 12, shape, strides, offset)
    with pytest.raises(UserError, match="reaches beyond its storage '0' of 12 elements"):
        open_torch(write(tmp_path, data))


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "message"),
    [
        ((-1,), (1,), 0, "are not sizes"),
        ((2,), (-1,), 4, "are not sizes"),
        ((2,), (1,), -4, "are not sizes"),
        ((2**64,), (1,), 0, "are not sizes"),
        ((2, 2), (1,), 0, "do not fit each other"),
        ((1,) * 9, (1,) * 9, 0, "do not fit each other"),
    ],
)
def test_impossible_sizes(tmp_path, shape, strides, offset, message):
    data = one_tensor("torch.FloatStorage", "0", 12, shape, strides, offset)
    with pytest.raises(UserError, match=message):
        open_torch(write(tmp_path, data))


@pytest.mark.parametrize("count", [11, 13, 2**62])
def test_a_storage_of_another_size_than_said(tmp_path, count):
    data = one_tensor("torch.FloatStorage", "0", count, (1,))
    with pytest.raises(UserError, match=f"'0' should have {count * 4} bytes and has 48"):
        open_torch(write(tmp_path, data))


def test_a_missing_storage(tmp_path):
    with pytest.raises(UserError, match="the storage '0' that a tensor refers to is missing"):
        open_torch(write(tmp_path, WHOLE, {}))


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("torch.ComplexFloatStorage", r"refuses to load torch\.ComplexFloatStorage"),
        ("torch.float32", r"a storage of type torch\.float32"),
        ("torch.UntypedStorage", "without a typed storage"),
    ],
)
def test_other_storage_types(tmp_path, storage, message):
    data = one_tensor(storage, "0", 48, (1,))
    with pytest.raises(UserError, match=message):
        open_torch(write(tmp_path, data))


def test_compressed_members_are_not_unpacked(tmp_path):
    bomb = {"0": bytes(10**7)}
    data = one_tensor("torch.FloatStorage", "0", 10**7 // 4, (1,))
    path = write(tmp_path, data, bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    with pytest.raises(UserError, match=r"is compressed, which torch\.save never does"):
        open_torch(path)


def test_an_endless_description_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "_LARGEST_PICKLE", 100)
    with pytest.raises(UserError, match=r"data\.pkl has \d+ bytes"):
        open_torch(write(tmp_path, WHOLE))


def test_the_format_before_pytorch_1_6(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    path.write_bytes(magic + pickle.dumps(1001, protocol=2))
    with pytest.raises(UserError, match=r"before PyTorch 1\.6.*torch\.save\(torch\.load"):
        open_torch(path)


def test_files_that_are_something_else(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"version https://example.org/spec/v1\n")
    with pytest.raises(UserError, match="not a PyTorch file"):
        open_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(UserError, match=r"a zip file without one data\.pkl"):
        open_torch(path)


def test_a_member_that_stands_there_twice(tmp_path):
    path = write(tmp_path, WHOLE)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data/0", bytes(48))
    with pytest.raises(UserError, match="'archive/data/0' stands there twice"):
        open_torch(path)


def test_an_encrypted_member(tmp_path):
    data = bytearray(write(tmp_path, WHOLE).read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 8] |= 1
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(data))
    with pytest.raises(UserError, match="is encrypted"):
        open_torch(tmp_path / "pytorch_model.bin")


def test_a_member_that_claims_to_reach_beyond_the_file(tmp_path):
    data = bytearray(write(tmp_path, WHOLE).read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"truncated: the member 'archive/data\.pkl' ends beyond"):
        open_torch(tmp_path / "pytorch_model.bin")


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    bf16 = np.arange(4).astype(ml_dtypes.bfloat16)
    return write_state_dict(folder / "x.bin", {"w": FLOATS.reshape(3, 4), "b": bf16}).read_bytes()


@given(part=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_a_user_error(tmp_path_factory, whole_file, part):
    path = tmp_path_factory.mktemp("cut") / "x.bin"
    path.write_bytes(whole_file[: int(part * len(whole_file))])
    with pytest.raises(UserError):
        open_torch(path)


@given(part=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_another_exception(tmp_path_factory, whole_file, part, value):
    data = bytearray(whole_file)
    data[int(part * len(data))] = value
    path = tmp_path_factory.mktemp("bit") / "x.bin"
    path.write_bytes(bytes(data))
    try:
        opened = open_torch(path)
    except UserError:
        return
    for tensor in opened.values():
        assert tensor.read().shape == tensor.shape
