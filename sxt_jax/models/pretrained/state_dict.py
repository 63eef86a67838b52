"""State dicts of PyTorch: tensors by the names of their layers, from any file that holds them."""

from __future__ import annotations

import importlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.torch_archive import find_state_dict, read_torch_archive

# What DataParallel, Lightning modules and `torch.compile` put before all names.
_PREFIXES = ('module.', 'network.', 'module.', '_orig_mod.')
_ZIP = b'PK\x03\x04'  # how an archive begins
_PICKLE = b'\x80'  # and how a file from before 1.6 does


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a PyTorch checkpoint by the names of their layers.

    Args:
      path: any file that `torch.save` wrote (.pt, .pth, .ckpt, or no suffix), or .npz with the
        same names. None of the file's code is run. PyTorch must be installed only for files of
        its versions before 1.6.

    Returns:
      Arrays by name, without what wrappers put before all names.

    Raises:
      InputError: no such file, none of these formats, a damaged one, or no state dict in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, 'no such file', 'a state dict')
    if path.suffix == '.npz':
        tensors = _read_npz(path)
    elif zipfile.is_zipfile(path):
        tensors = read_torch_archive(path)
    else:
        tensors = _read_legacy(path)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # whatever damaged bytes make of zip, and numpy of an .npy file
        reason = str(error).partition('\n')[0][:120]
        raise InputError(path, f'no readable .npz archive ({reason})', 'arrays by name') from error


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    """A file of PyTorch before 1.6, which is no archive."""
    with path.open('rb') as file:
        begin = file.read(4)
    if begin == _ZIP:
        raise InputError(path, 'a file of PyTorch that is cut short', 'a whole one')
    if not begin.startswith(_PICKLE):
        raise InputError(path, 'no file of PyTorch', 'a state dict (.pt, .pth, .ckpt or .npz)')
    try:
        torch: Any = importlib.import_module('torch')
    except ImportError as error:
        found = 'no file of PyTorch from 1.6 on; reading older ones takes torch'
        raise InputError(path, found, "a state dict, or `pip install 'sxt_jax[torch]'`") from error
    try:
        saved = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        found = 'no file of PyTorch, or a damaged one'
        if refused := re.search(r'GLOBAL (\S+)', str(error)):
            found = f'a file of PyTorch before 1.6 that holds {refused[1]} besides tensors'
        raise InputError(path, found, 'a state dict') from error
    state = find_state_dict(path, saved, torch.Tensor)
    return {str(name): tensor.float().numpy() for name, tensor in state.items()}
