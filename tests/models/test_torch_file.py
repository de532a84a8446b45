"""Tensors of a PyTorch file are read without PyTorch, and a file with anything else runs nothing."""

import io
import os
import pickle
import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pneumonia.models import torch_file

MAGIC, SYSTEM = 0x1950A86A20F9469CFC6C, {"protocol_version": 1001, "little_endian": True}
STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}


class Storage:
    def __init__(self, kind: Any, key: str, size: int) -> None:
        self.identity = ("storage", kind, key, "cpu", size, None)


class Rebuilt:
    """Pickled as a call of `torch._utils._rebuild_tensor_v2` with these arguments."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments  # type: ignore[attr-defined]


class Writer(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.identity if isinstance(thing, Storage) else None


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Modules with the names that such a file contains; nothing of them can be called."""
    main, inner = ModuleType("torch"), ModuleType("torch._utils")
    for module, name in ((inner, "_rebuild_tensor_v2"), *((main, name) for name in STORAGES.values())):
        thing = type(name, (), {"__module__": module.__name__})
        setattr(module, name, thing)
    monkeypatch.setitem(sys.modules, "torch", main)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)
    return main


def pickled(thing: Any) -> bytes:
    buffer = io.BytesIO()
    Writer(buffer, protocol=2).dump(thing)
    return buffer.getvalue()


def written(
    torch: ModuleType,
    tensors: Mapping[str, npt.NDArray[Any]],
    *,
    content: Any = None,
    keys: Sequence[str] | None = None,
) -> bytes:
    """A file of these tensors; `content` and `keys` replace what it would hold."""
    stored = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    whole = OrderedDict()
    for name, values in stored.items():
        kind = getattr(torch, STORAGES[values.dtype.name])
        strides = tuple(step // values.itemsize for step in values.strides)
        whole[name] = Rebuilt(Storage(kind, name, values.size), 0, values.shape, strides, False, OrderedDict())
    parts = [pickled(MAGIC), pickled(1001), pickled(SYSTEM), pickled(whole if content is None else content)]
    parts.append(pickled(list(keys or stored)))
    parts += [values.size.to_bytes(8, "little") + values.tobytes() for values in stored.values()]
    return b"".join(parts)


def read(folder: Path, content: bytes) -> dict[str, npt.NDArray[Any]]:
    (folder / "weights.pth").write_bytes(content)
    return torch_file.read(folder / "weights.pth")


def test_tensors_come_back(torch: ModuleType, tmp_path: Path) -> None:
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = read(tmp_path, written(torch, {"kernel": kernel, "steps": np.array(7, np.int64)}))
    assert list(found) == ["kernel", "steps"]
    np.testing.assert_array_equal(found["kernel"], kernel)
    assert found["kernel"].dtype == np.float32
    assert found["steps"] == 7
    assert found["steps"].shape == ()


def test_a_transposed_tensor_comes_back_by_its_strides(torch: ModuleType, tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    content = {"kernel": Rebuilt(Storage(torch.FloatStorage, "kernel", 6), 0, (3, 2), (1, 3), False, OrderedDict())}
    found = read(tmp_path, written(torch, {"kernel": values}, content=content))
    np.testing.assert_array_equal(found["kernel"], values.reshape(2, 3).T)


class Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def tensor(torch: ModuleType, size: Any = 6, offset: Any = 0, shape: Any = (6,), strides: Any = (1,)) -> dict[str, Any]:
    return {"kernel": Rebuilt(Storage(torch.FloatStorage, "kernel", size), offset, shape, strides, False, None)}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda torch: Harm(), "it names .*mkdir, which is no part of a tensor"),
        (lambda torch: {"kernel": Harm()}, "it names .*mkdir"),
        (lambda torch: {"kernel": Rebuilt(Harm(), 0, (1,), (1,), False, None)}, "it names .*mkdir"),
        (lambda torch: tensor(torch) | {"more": Path("x")}, "it names pathlib"),
        (lambda torch: {"kernel": [1.0, 2.0]}, "not a dictionary of tensors"),
        (lambda torch: [1.0, 2.0], "not a dictionary of tensors"),
        (lambda torch: tensor(torch, offset=1), "larger than its storage"),
        (lambda torch: tensor(torch, shape=(7,)), "larger than its storage"),
        (lambda torch: tensor(torch, strides=(2,)), "larger than its storage"),
        (lambda torch: tensor(torch, strides=(-1,)), "larger than its storage"),
        (lambda torch: tensor(torch, shape=(10**9,), strides=(0,)), "larger than its storage"),
        (lambda torch: tensor(torch, shape=(6, 1)), "a tensor has another form"),
        (lambda torch: tensor(torch, offset=0.0), "a tensor has another form"),
        (lambda torch: tensor(torch, size=10**12), "a storage has another form"),
        (lambda torch: tensor(torch, size="6"), "a storage has another form"),
        (lambda torch: {"kernel": Rebuilt()}, "it is damaged"),
        (lambda torch: tensor(torch, shape=(1,) * 65, strides=(1,) * 65), "it is damaged"),  # more axes than NumPy has
        (lambda torch: tensor(torch) | {1: tensor(torch)["kernel"]}, "not a dictionary of tensors"),
        (lambda torch: tensor(torch) | {"view": tensor(torch)["kernel"]}, "name the same storage"),
        (lambda torch: tensor(torch) | {"small": tensor(torch, size=1, shape=(1,))["kernel"]}, "name the same storage"),
        (lambda torch: tensor(torch, size=2000, shape=(2000,)), "it is cut short"),
    ],
)
def test_anything_but_tensors_is_refused_and_nothing_runs(
    torch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(torch_file.NotTensorsError, match=problem):
        read(tmp_path, written(torch, {"kernel": np.zeros(6, np.float32)}, content=content(torch)))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("part", [0, 1, 2, 4])
def test_harm_before_or_after_the_tensors_does_not_run(
    torch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [pickled(MAGIC), pickled(1001), pickled(SYSTEM), pickled(tensor(torch))]
    with pytest.raises(torch_file.NotTensorsError, match=r"it names .*mkdir|not a file of PyTorch"):
        read(tmp_path, b"".join(parts[:part]) + pickled(Harm()))
    assert not (tmp_path / "harmed").exists()


def test_a_file_cut_anywhere_is_one_error(torch: ModuleType, tmp_path: Path) -> None:
    whole = written(torch, {"kernel": np.zeros((2, 3), np.float32)})
    for length in range(len(whole)):
        with pytest.raises(torch_file.NotTensorsError):
            read(tmp_path, whole[:length])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (pickle.dumps({"a": 1}), "not a file of PyTorch"),
        (b"PK\3\4 a zip", r"PyTorch 1\.6 or later wrote it; save it again with .*_use_new_zipfile_serialization=False"),
        (b"", "not a file of PyTorch"),
    ],
)
def test_other_files_are_one_error(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(torch_file.NotTensorsError, match=problem):
        read(tmp_path, content)


def test_a_list_of_storages_that_does_not_fit_is_one_error(torch: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(torch_file.NotTensorsError, match="list of storages"):
        read(tmp_path, written(torch, {"kernel": np.zeros(6, np.float32)}, keys=["other"]))


HEAD = pickled(MAGIC) + pickled(1001)
FUNCTION = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("harmful", "problem"),
    [
        (b"\x8e" + (2**46).to_bytes(8, "little"), "the opcode BINBYTES8|damaged"),
        (b"\x96" + (2**46).to_bytes(8, "little"), "the opcode BYTEARRAY8|damaged"),
        (b"\x8d" + (2**62).to_bytes(8, "little"), "damaged"),
        (b"X" + b"\xff" * 4, "damaged"),
        (b"Nr" + b"\xff" * 4 + b".", "the places of its memo are not in order"),
        (b"Nq\1.", "the places of its memo are not in order"),
        (b"C\1a.", "the opcode SHORT_BINBYTES"),
    ],
)
@pytest.mark.parametrize(
    "part",
    [HEAD, HEAD + pickled(SYSTEM), HEAD + pickled(SYSTEM) + pickled({})],
    ids=["in the system", "in the tensors", "in the keys"],
)
def test_a_short_file_that_asks_for_much_memory_is_one_error(
    tmp_path: Path, part: bytes, harmful: bytes, problem: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(torch_file.NotTensorsError, match=problem):
            read(tmp_path, part + b"\x80\2" + harmful)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_file, "MAX_BYTES", 10)
    monkeypatch.delattr(Path, "read_bytes")
    with pytest.raises(torch_file.NotTensorsError, match="it has 11 bytes; at most 10 are read"):
        read(tmp_path, bytes(11))


@pytest.mark.parametrize("state", [{"harmed": True}, (None, {"harmed": True}), (None, {"__defaults__": ("harmed",)})])
@pytest.mark.parametrize("name", [FUNCTION, b"ccollections\nOrderedDict\n"])
def test_a_file_changes_no_function_or_class_of_the_reader(
    torch: ModuleType, tmp_path: Path, name: bytes, state: Any
) -> None:
    """The opcode BUILD sets attributes of what the file names."""
    harmful = b"\x80\2" + name + pickled(state)[2:-1] + b"b."
    with pytest.raises(torch_file.NotTensorsError):
        read(tmp_path, HEAD + pickled(SYSTEM) + harmful)
    for thing in (torch_file._tensor, torch_file._Tensor, torch_file._Dictionary, OrderedDict):
        assert not hasattr(thing, "harmed")
    assert torch_file._tensor.__defaults__ is None
    kernel = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(read(tmp_path, written(torch, {"kernel": kernel}))["kernel"], kernel)


def test_attributes_of_the_dictionary_have_no_effect(torch: ModuleType, tmp_path: Path) -> None:
    """PyTorch writes `_metadata`; a harmful file could replace `items`."""
    content = OrderedDict(tensor(torch))
    whole = written(torch, {"kernel": np.ones(6, np.float32)}, content=content)
    build = b"}X\5\0\0\0itemsK\5sb."
    found = read(tmp_path, whole.replace(pickled(content), pickled(content)[:-1] + build))
    assert list(found) == ["kernel"]
    np.testing.assert_array_equal(found["kernel"], np.ones(6))
