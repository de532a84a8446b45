"""Tensors of a file that PyTorch wrote before version 1.6, read without PyTorch and without running what it contains.

Such a file is a series of pickles, and a pickle can call any function. Here it can name only the few things that make
up a dictionary of tensors; anything else is an error before it is called.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError)
MAX_VALUES = 2**28
"""Of one storage; the largest layers of the networks here have a few millions."""


class NotTensorsError(ValueError):
    """The file is not a dictionary of tensors in this format; the message says what is wrong."""


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Name of each tensor -> its values, in the order of the file.

    Raises:
        NotTensorsError: the file is damaged, is not of this format, or holds anything but tensors.
    """
    try:
        with open(path, "rb") as file:
            if _plain(file) != _MAGIC or _plain(file) != _PROTOCOL:
                raise NotTensorsError("it is not a file of PyTorch in the format before 1.6")
            if not isinstance(system := _plain(file), dict) or system.get("little_endian") is not True:
                raise NotTensorsError("its numbers are not little-endian")
            tensors, keys = _Tensors(file).load(), _plain(file)
            if not isinstance(tensors, Mapping) or not all(isinstance(one, _Tensor) for one in tensors.values()):
                raise NotTensorsError("it is not a dictionary of tensors")
            storages = _read_storages(file, tensors.values(), keys)
    except NotTensorsError:
        raise
    except _DAMAGE as error:
        raise NotTensorsError(f"it is damaged ({type(error).__name__})") from error
    return {str(name): _values(tensor, storages) for name, tensor in tensors.items()}


class _Plain(pickle.Unpickler):
    """Numbers, texts and containers only."""

    def find_class(self, module: str, name: str) -> Any:
        raise NotTensorsError(f"it names {module}.{name}, which is no part of a tensor")

    def persistent_load(self, identity: Any) -> Any:
        raise NotTensorsError("it has a storage where none is expected")


class _Tensors(_Plain):
    """What `_Plain` reads, and tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        }
        return known.get((module, name)) or super().find_class(module, name)

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, size, view = identity
        if kind != "storage" or view is not None or dtype not in _DTYPES.values() or not 0 <= size <= MAX_VALUES:
            raise NotTensorsError("a storage has another form")
        return _Storage(str(key), dtype, int(size))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(type(n) is int for n in numbers):
        raise NotTensorsError("a tensor has another form")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if min(numbers) < 0 or 0 in shape or last >= storage.size or np.prod(shape, dtype=float) > storage.size:
        raise NotTensorsError("a tensor is larger than its storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _plain(file: BinaryIO) -> Any:
    return _Plain(file).load()


def _read_storages(file: BinaryIO, tensors: Iterable[_Tensor], keys: Any) -> dict[str, npt.NDArray[Any]]:
    known = {tensor.storage.key: tensor.storage for tensor in tensors}
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(known):
        raise NotTensorsError("its list of storages does not fit its tensors")
    storages = {}
    for key in map(str, keys):
        size = int.from_bytes(file.read(8), "little")
        content = file.read(known[key].size * np.dtype(known[key].dtype).itemsize)
        if size != known[key].size or len(content) != size * np.dtype(known[key].dtype).itemsize:
            raise NotTensorsError("it is cut short")
        storages[key] = np.frombuffer(content, known[key].dtype)
    return storages


def _values(tensor: _Tensor, storages: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    storage = storages[tensor.storage.key]
    steps = tuple(step * storage.itemsize for step in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, steps, writeable=False).copy()
