"""Checkpoints of PyTorch read without PyTorch: all tensors, none of the file's code, any damage."""

from __future__ import annotations

import pathlib
import zipfile

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.models.pretrained.torch_archive import read_torch_archive

FIXTURE = pathlib.Path(__file__).parents[2] / 'fixtures' / 'torch_checkpoint.ckpt'


def test_reads_a_training_checkpoint_without_running_its_code(capsys):
    found = read_torch_archive(FIXTURE)
    base = np.arange(24.0).reshape(4, 6)
    expected = {
        'float32': np.float32(np.arange(6).reshape(2, 3) / 7),
        'view': base[1:3, ::2],
        'transposed': base.T,
        'float16': np.arange(4) / 8,
        'bfloat16': np.arange(4) / 8,
        'counter': np.array(7),
        'empty': np.zeros((0, 3)),
        'parameter': np.ones(2),
    }
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, strict=False)
        assert found[name].shape == tensor.shape
        assert found[name].dtype == np.float32
    assert capsys.readouterr().out == ''  # the file's pickle would print


def test_torch_reads_the_same(tmp_path):
    torch = pytest.importorskip('torch')
    state = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.BatchNorm3d(3)).state_dict()
    torch.save(state, tmp_path / 'weights.pt')
    found = read_torch_archive(tmp_path / 'weights.pt')
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_every_truncation_is_named(tmp_path):
    whole = FIXTURE.read_bytes()
    path = tmp_path / 'cut.ckpt'
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r'cut\.ckpt: no file of PyTorch, or a damaged one'):
            read_torch_archive(path)


def test_flipped_bits_are_named_or_change_nothing(tmp_path):
    whole = FIXTURE.read_bytes()
    expected = read_torch_archive(FIXTURE)
    path = tmp_path / 'flipped.ckpt'
    messages = []
    for place in np.random.default_rng(0).integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        try:
            found = read_torch_archive(path)
        except InputError as error:
            messages.append(str(error))
        else:
            for name, tensor in expected.items():
                np.testing.assert_array_equal(found[name], tensor)
    assert len(messages) > 20
    assert all('flipped.ckpt' in message for message in messages)


def _rewrite(path, change):
    """The fixture with members changed, its checksums right."""
    with zipfile.ZipFile(FIXTURE) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist():
            data = change(name.partition('/')[2], old.read(name))
            if data is not None:
                new.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda name, data: None if name == 'data.pkl' else data, "no 'data.pkl' in it"),
        (lambda name, data: None if name == 'data/0' else data, 'no item named'),
        (lambda name, data: data[:8] if name == 'data/0' else data, 'beyond the end'),
        (lambda name, data: b'.' if name == 'data.pkl' else data, 'damaged one'),
        (lambda name, data: b']q.' if name == 'data.pkl' else data, 'damaged one|a saved list'),
    ],
)
def test_says_what_is_wrong_inside(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_torch_archive(_rewrite(tmp_path / 'wrong.ckpt', change))


def test_big_endian_numbers_are_turned(tmp_path):
    def turned(name, data):
        if name == 'byteorder':
            return b'big'
        return np.frombuffer(data, '<f4').astype('>f4').tobytes() if name == 'data/0' else data

    found = read_torch_archive(_rewrite(tmp_path / 'big.ckpt', turned))
    np.testing.assert_array_equal(found['float32'], read_torch_archive(FIXTURE)['float32'])
