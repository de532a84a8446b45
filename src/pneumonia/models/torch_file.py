"""Tensors of a file that PyTorch wrote before version 1.6, read without PyTorch and without running what it contains.

Such a file is a series of pickles, and a pickle can call any function. Here it can name only the few things that make
up a dictionary of tensors; anything else is an error before it is called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_HEAD = pickle.dumps(_MAGIC, protocol=2) + pickle.dumps(_PROTOCOL, protocol=2)
_ZIP = b"PK\3\4"
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
_MEMO_OPCODES = {"BINPUT", "LONG_BINPUT"}
_OPCODES = _MEMO_OPCODES | {
    *("PROTO", "STOP", "MARK", "BINGET", "LONG_BINGET", "GLOBAL", "BINPERSID", "REDUCE", "BUILD"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS"),
}
"""What PyTorch writes for a dictionary of tensors. They take memory in proportion to the size of the file, except for
the places of the memo, which are checked."""
_DAMAGE = (
    *(pickle.UnpicklingError, EOFError, MemoryError, RecursionError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError),
)
MAX_BYTES = 2**30
"""Largest file that is read; the published one has 19 MB."""


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
        OSError: the file cannot be read.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise NotTensorsError(f"it has {size} bytes; at most {MAX_BYTES} are read")
    content = path.read_bytes()
    if content.startswith(_ZIP):
        raise NotTensorsError(
            "PyTorch 1.6 or later wrote it; save it again with torch.save(..., _use_new_zipfile_serialization=False)"
        )
    if not content.startswith(_HEAD):
        raise NotTensorsError("it is not a file of PyTorch in the format before 1.6")
    file = io.BytesIO(content)  # unlike a file on disk, it takes no memory for a length that lies after its end
    file.seek(len(_HEAD))
    try:
        if not isinstance(system := _load(_Plain, file), dict) or system.get("little_endian") is not True:
            raise NotTensorsError("its numbers are not little-endian")
        tensors, keys = _load(_Tensors, file), _load(_Plain, file)
        if not isinstance(tensors, Mapping) or not all(
            type(name) is str and isinstance(one, _Tensor) for name, one in tensors.items()
        ):
            raise NotTensorsError("it is not a dictionary of tensors")
        storages = _read_storages(file, tensors.values(), keys)
        return {name: _values(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except NotTensorsError:
        raise
    except _DAMAGE as error:
        raise NotTensorsError(f"it is damaged ({type(error).__name__})") from error


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
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time: the opcode BUILD can set its attributes.
            return lambda *arguments: _tensor(*arguments)
        return super().find_class(module, name)

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, size, view = identity
        if kind != "storage" or view is not None or dtype not in _DTYPES.values():
            raise NotTensorsError("a storage has another form")
        if type(key) is not str or type(size) is not int or not 0 <= size <= MAX_BYTES:
            raise NotTensorsError("a storage has another form")
        return _Storage(key, dtype, size)


class _Dictionary(dict[Any, Any]):
    """An `OrderedDict` of the file. Its attributes, such as the `_metadata` of PyTorch, are left out."""

    def __setstate__(self, state: Any) -> None:
        """Ignore what the opcode BUILD would set."""


def _load(unpickler: type[_Plain], file: BinaryIO) -> Any:
    """The next pickle of the file. Its opcodes are checked first: some others ask for any amount of memory."""
    start, n_memo = file.tell(), 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise NotTensorsError(f"it has the opcode {opcode.name}, which is no part of a tensor")
        if opcode.name in _MEMO_OPCODES:
            if argument != n_memo:  # pickle counts from 0; the memo gets a place for each number below the largest
                raise NotTensorsError("it is damaged (the places of its memo are not in order)")
            n_memo += 1
    file.seek(start)
    return unpickler(file).load()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(type(n) is int for n in numbers):
        raise NotTensorsError("a tensor has another form")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _read_storages(file: BinaryIO, tensors: Iterable[_Tensor], keys: Any) -> dict[str, npt.NDArray[Any]]:
    """Key of each storage -> its values, of shape (n,).

    Two tensors must not share one: a small file could ask for any amount of memory.
    """
    storages = [tensor.storage for tensor in tensors]
    known = {storage.key: storage for storage in storages}
    if len(known) != len(storages):
        raise NotTensorsError("two of its tensors name the same storage")
    if not isinstance(keys, list) or not all(type(key) is str for key in keys) or sorted(keys) != sorted(known):
        raise NotTensorsError("its list of storages does not fit its tensors")
    values = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        content = file.read(known[key].size * np.dtype(known[key].dtype).itemsize)
        if size != known[key].size or len(content) != size * np.dtype(known[key].dtype).itemsize:
            raise NotTensorsError("it is cut short")
        values[key] = np.frombuffer(content, known[key].dtype)
    return values


def _values(tensor: _Tensor, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy a tensor out of its storage, of shape (n,)."""
    offset, shape, strides = tensor.offset, tensor.shape, tensor.strides
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    is_inside = min((offset, *shape, *strides)) >= 0 and 0 not in shape and last < len(storage)
    if not is_inside or np.prod(shape, dtype=float) > len(storage):
        raise NotTensorsError("a tensor is larger than its storage")
    steps = tuple(step * storage.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False).copy()
