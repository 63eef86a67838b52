"""The examination finds what works, and tells what does not without raising."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.doctor import format_findings
from sxt_jax.pipelines import examine_machine as room
from sxt_jax.pipelines.examine_machine import Finding


@pytest.mark.parametrize('suffix', room.FORMATS)
def test_every_format_works_here(suffix):
    finding = room.examine_format(suffix)
    assert finding.works, finding
    assert finding.found.startswith('works')


def test_amira_is_read(monkeypatch):
    finding = room.examine_amira()
    assert finding == Finding('formats', '.am', 'works (AmiraMesh, read only)')
    assert finding in room.examine_machine(kernel_side=4)
    monkeypatch.setattr(room, '_AMIRA_HEADER', room._AMIRA_HEADER.replace('nm', 'um'))
    assert not room.examine_amira().works
    monkeypatch.setattr(room, '_AMIRA_HEADER', '# AmiraMesh')
    assert 'truncated' in room.examine_amira().found


def _with_back(monkeypatch, change):
    written = {}
    monkeypatch.setattr(room, 'write_volume', lambda path, volume: written.update(v=volume))
    monkeypatch.setattr(room, 'read_volume', lambda path: change(written['v']))
    return room.examine_format('.tif')


def test_a_format_that_changes_something_is_broken(monkeypatch):
    def scrambled(volume):
        return volume.with_data(np.flip(volume.data))

    def wrong_size(volume):
        return dataclasses.replace(volume, voxel_size_nm=(10.0, 10.0, 20.0))

    def raising(volume):
        raise OSError('no such codec')

    for change, words in [
        (scrambled, 'other voxels'),
        (wrong_size, '(10.0, 10.0, 20.0)'),
        (raising, 'OSError: no such codec'),
    ]:
        finding = _with_back(monkeypatch, change)
        assert not finding.works
        assert words in finding.found


def test_a_wrong_kernel_is_broken_and_not_timed(monkeypatch):
    right = room.examine_kernel(side=4, channels=2)
    assert [f.name for f in right] == ['3-D convolution', 'forward', 'forward + backward']
    assert all(f.works for f in right)
    assert 'GFLOP/s' in right[1].found
    monkeypatch.setattr(room, 'conv', lambda x, k: jnp.flip(jnp.asarray(x), 1))
    (wrong,) = room.examine_kernel(side=4, channels=2)
    assert not wrong.works
    monkeypatch.setattr(room, 'conv', lambda x, k: jnp.asarray(x) * jnp.nan)
    assert not room.examine_kernel(side=4, channels=2)[0].works


ADVICE = ': with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment training is faster'


@pytest.mark.parametrize(
    ('modes', 'library', 'tunables', 'expected'),
    [
        ('[always] madvise never', ('glibc', '2.36'), '', ['always']),
        ('always madvise [never]', ('glibc', '2.36'), '', ['never']),
        ('always [madvise] never', ('glibc', '2.36'), '', [f'on request{ADVICE}']),
        ('always [madvise] never', ('glibc', '2.36'), 'a.b=1:glibc.malloc.hugetlb=1',
         ['on request, requested']),
        ('always [madvise] never', ('glibc', '2.31'), '', ['on request']),
        ('always [madvise] never', ('', ''), '', []),
        ('unheard of', ('glibc', '2.36'), '', []),
        (None, ('glibc', '2.36'), '', []),
    ],
)  # fmt: skip
def test_large_pages(modes, library, tunables, expected, tmp_path, monkeypatch):
    if modes is not None:
        (tmp_path / 'enabled').write_text(f'{modes}\n')
    monkeypatch.setattr(room, '_LARGE_PAGES', tmp_path / 'enabled')
    monkeypatch.setattr(room.platform, 'libc_ver', lambda: library)
    monkeypatch.setenv('GLIBC_TUNABLES', tunables)
    assert [finding.found for finding in room.examine_large_pages()] == expected


def test_versions_and_devices_are_listed(monkeypatch):
    versions = {f.name: f for f in room.examine_versions()}
    assert versions['jax'].found == jax.__version__
    names = [f.name for f in room.examine_devices()]
    assert sum(name.startswith('JAX device') for name in names) == len(jax.devices()) == 8
    monkeypatch.setattr(room, 'PACKAGES', ('no-such-package',))
    assert not room.examine_versions()[-1].works


def test_a_cache_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'cache'))
        assert room.examine_compilation_cache().works
        jax.config.update('jax_compilation_cache_dir', str(file / 'cache'))
        assert not room.examine_compilation_cache().works
    finally:
        jax.config.update('jax_compilation_cache_dir', before)


def test_report_marks_what_is_broken():
    text = format_findings(
        [Finding('formats', '.tif', 'works'), Finding('formats', '.mrc', 'lost', False)]
    )
    assert text.splitlines() == ['', 'formats', '  ✓ .tif  works', '  ✗ .mrc  lost']
