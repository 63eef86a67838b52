"""HDF5 files of Keras: the weights by name, in the order of the file.

A weights file (`save_weights`) has one group a layer at the root, a full model (`save`) has them
in `model_weights`. The attribute `layer_names` gives the layers' order, `weight_names` of each
layer the order of its data sets. Legacy Keras ends these names in ':0', Keras 3 does not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sxt_jax.core.errors import InputError

FULL_MODEL = 'model_weights'
_OWN_WEIGHTS = 'top_level_model_weights'  # of the model itself rather than of a layer


@contextlib.contextmanager
def open_keras(path: str | Path) -> Iterator[h5py.File]:
    """An HDF5 file to read from; what HDF5 says of damage becomes our error.

    Raises:
      InputError: no such file, not HDF5, truncated or damaged.
    """
    if not Path(path).is_file():
        found = 'a folder' if Path(path).is_dir() else 'no such file'
        raise InputError(path, found, 'an HDF5 file of Keras')
    try:
        with h5py.File(path, 'r') as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # whatever h5py raises at damage, and objects of other kinds
        reason = str(error).partition('\n')[0][:120]
        found = f'no HDF5 file, or a damaged one ({reason})'
        raise InputError(path, found, 'an HDF5 file of Keras') from error


def read_keras_weights(path: str | Path) -> dict[str, np.ndarray]:
    """All weights of a weights file or a full model; those of the optimizer are left out.

    Args:
      path: .h5 file.

    Returns:
      By their names in the file without ':0', such as 'conv_1_1/kernel', in the file's order.

    Raises:
      InputError: as `open_keras`; no layers, or names that do not fit the data sets.
    """
    with open_keras(path) as file:
        group = file.get(FULL_MODEL, file)
        layers = _names(group, 'layer_names')
        if layers is None:
            found = f'no layer names of Keras (it has {_list(file)})'
            raise InputError(path, found, "weights that Keras wrote as '.h5'")
        tensors: dict[str, np.ndarray] = {}
        for layer in (*layers, _OWN_WEIGHTS):
            if layer not in group:
                if layer != _OWN_WEIGHTS:
                    raise InputError(path, f'no group of layer {layer!r}', 'one for every layer')
                continue
            for name in _names(group[layer], 'weight_names') or ():
                _add(tensors, path, group[layer], name)
        return tensors


def _add(tensors: dict[str, np.ndarray], path: str | Path, layer: Any, name: str) -> None:
    if not isinstance(layer.get(name), h5py.Dataset):
        raise InputError(path, f'no data set {name!r} in {layer.name}', 'one for every weight name')
    ours = name.removesuffix(':0')
    if ours in tensors:
        raise InputError(path, f'two weights are called {ours!r}', 'each name once')
    tensors[ours] = layer[name][()]


def _names(group: Any, attribute: str) -> list[str] | None:
    """Names in an attribute, which Keras splits into `attribute0`, … where it is large."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    parts: list[str] = []
    n_parts = 0
    while f'{attribute}{n_parts}' in group.attrs:
        parts += [_text(name) for name in group.attrs[f'{attribute}{n_parts}']]
        n_parts += 1
    return parts if n_parts else None


def _text(name: Any) -> str:
    return name.decode('utf-8') if isinstance(name, bytes) else str(name)


def _list(file: Any) -> str:
    names = list(file)
    return ', '.join(map(repr, names[:4])) + ', …' * (len(names) > 4) if names else 'nothing'
