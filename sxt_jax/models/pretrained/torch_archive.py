"""PyTorch's checkpoint files, read without PyTorch and without running any code of the file.

Since version 1.6 `torch.save` writes a zip archive: 'data.pkl', a pickle of the structure, and one
member a storage with the numbers. Checkpoints of training frameworks hold much besides tensors
(options, callbacks, scalars of numpy) whose classes need not be installed, and which
`torch.load(weights_only=True)` refuses. Here every class and function that a pickle names, but for
those that make a tensor, is replaced by one that does nothing.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError

_DTYPES = {
    'FloatStorage': np.float32,
    'DoubleStorage': np.float64,
    'HalfStorage': np.float16,
    'BFloat16Storage': jnp.bfloat16,
    'LongStorage': np.int64,
    'IntStorage': np.int32,
    'ShortStorage': np.int16,
    'CharStorage': np.int8,
    'ByteStorage': np.uint8,
    'BoolStorage': np.bool_,
}


def read_torch_archive(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors by name of a state dict, saved alone or under 'state_dict' beside other things.

    Args:
      path: a zip archive that `torch.save` wrote.

    Returns:
      [any shape] float32 by name.

    Raises:
      InputError: no such archive, a damaged one, or one without a state dict.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            saved = _Unpickler(archive).load()
    except Exception as error:  # whatever damaged bytes make of zip and pickle
        reason = str(error).partition('\n')[0][:120]
        raise InputError(
            path, f'no file of PyTorch, or a damaged one ({reason})', 'a state dict'
        ) from error
    state = find_state_dict(path, saved, np.ndarray)
    return {str(name): tensor.astype(np.float32) for name, tensor in state.items()}


def find_state_dict(path: str | Path, saved: Any, tensor_type: type) -> Mapping[Any, Any]:
    """The state dict in what was saved: itself, or under 'state_dict' beside other things.

    Args:
      path: of the file, for the error.
      saved: what was in it.
      tensor_type: of which all values of a state dict are.

    Raises:
      InputError: there is none.
    """
    if isinstance(saved, Mapping) and isinstance(saved.get('state_dict'), Mapping):
        saved = saved['state_dict']
    if not isinstance(saved, Mapping) or not all(
        isinstance(tensor, tensor_type) for tensor in saved.values()
    ):
        kind = 'dict' if isinstance(saved, Mapping) else type(saved).__name__
        raise InputError(path, f'a saved {kind}', 'a state dict: tensors by name')
    return saved


class _Dict(dict):  # type: ignore[type-arg]
    """An ordered dict, which unlike `dict` can be given attributes (as state dicts are)."""


class _Nothing:
    """Stands for an object of any class: takes whatever a pickle does to it, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


class _Storage(NamedTuple):
    """The numbers that tensors are views of."""

    numbers: np.ndarray


class _Unpickler(pickle.Unpickler):
    """Reads 'data.pkl' of an archive."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        structures = [name for name in names if name.rpartition('/')[2] == 'data.pkl']
        if not structures:
            raise ValueError("no 'data.pkl' in it")
        super().__init__(io.BytesIO(archive.read(structures[0])))
        self._archive = archive
        self._folder = structures[0].removesuffix('data.pkl')
        order = f'{self._folder}byteorder'
        self._is_big_endian = order in names and archive.read(order) == b'big'

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('collections', 'OrderedDict'):
            return _Dict
        if module == 'torch._utils' and name in _TENSOR_MAKERS:
            return _TENSOR_MAKERS[name]
        if module in ('torch', 'torch.cuda') and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        return type(name, (_Nothing,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, _ = pid
        if not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f'storage of the unknown type {dtype!r}')
        data = self._archive.read(f'{self._folder}data/{key}')
        stored = dtype.newbyteorder('>') if self._is_big_endian else dtype
        return _Storage(np.frombuffer(data, stored))


def _rebuild_tensor(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    numbers = storage.numbers[offset:]
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= len(numbers)):
        raise ValueError(f'a tensor of shape {tuple(size)} beyond the end of its numbers')
    strides = [step * numbers.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(numbers, tuple(size), strides).copy()


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


_TENSOR_MAKERS = {'_rebuild_tensor_v2': _rebuild_tensor, '_rebuild_parameter': _rebuild_parameter}
