"""State dicts from any file that holds them; whole networks are in the tests of their importers."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.state_dict import read_state_dict


def test_flipped_bits_of_numpy_archives_are_named_or_change_nothing(tmp_path):
    path = tmp_path / 'flipped.npz'
    np.savez_compressed(path, a=np.arange(300.0))
    whole = path.read_bytes()
    n_told = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            found = read_state_dict(path)
        except InputError as error:
            assert 'flipped.npz' in str(error)  # noqa: PT017
            n_told += 1
        else:
            assert [tensor.tolist() for tensor in found.values()] in ([], [list(range(300))])
    assert n_told > 100


def test_one_array_is_no_archive(tmp_path):
    with (tmp_path / 'array.npz').open('wb') as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match=r'array\.npz: no readable \.npz archive'):
        read_state_dict(tmp_path / 'array.npz')


def test_old_torch_files_may_hold_a_state_dict_beside_other_things(tmp_path):
    torch = pytest.importorskip('torch')
    path = tmp_path / 'old.ckpt'
    saved = {'epoch': 3, 'state_dict': {'network.a.weight': torch.ones(2)}}
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    found = read_state_dict(path)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {'a.weight': [1, 1]}
    saved['hparams'] = argparse.Namespace(a=1)  # torch does not read a class that it does not know
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r'old\.ckpt: .*argparse'):
        read_state_dict(path)


@pytest.mark.parametrize('content', [b'', b'\x89HDF\r\n\x1a\n', b'\x89PNG\r\n\x1a\n', b'{}'])
def test_what_is_no_pickle_is_told_without_pytorch(tmp_path, monkeypatch, content):
    monkeypatch.setitem(sys.modules, 'torch', None)  # importing it raises ImportError
    path = tmp_path / 'weights.pt'
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'weights\.pt: no file of PyTorch; expected') as error:
        read_state_dict(path)
    assert 'pip install' not in str(error.value)
