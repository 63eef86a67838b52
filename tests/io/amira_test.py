"""AmiraMesh label and gray-value fields in every coding."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sxt_jax import io
from sxt_jax.core.errors import InputError
from tests.io.samples import amira_header, ramp, run_lengths

SHAPE = (5, 6, 7)


def labels():
    return (np.indices(SHAPE).sum(0) // 4 % 3).astype('u1')


@pytest.mark.parametrize('data', [labels(), ramp(SHAPE)])
@pytest.mark.parametrize('coding', ['', 'HxByteRLE', 'HxZip'])
def test_label_fields(coding, data, tmp_path):
    raw = data.tobytes()
    coded = {'': raw, 'HxByteRLE': run_lengths(raw), 'HxZip': zlib.compress(raw)}[coding]
    told = f'({coding},{len(coded)})' if coding else ''
    (tmp_path / 'a.labels').write_bytes(amira_header(SHAPE, coding=told) + coded + b'\n')
    found = io.read_volume(tmp_path / 'a.labels')
    np.testing.assert_array_equal(found.data, data)
    assert found.class_names == {0: 'Exterior', 1: 'Cell', 2: 'Nucleus'}
    # x from 0 to 600 over 7 voxel centres, y 250 over 6, z 400 over 5
    assert found.voxel_size_nm == (100.0, 50.0, 100.0)


def test_run_lengths_known_bytes(tmp_path):
    """Five times 7, then 1, 2, 3 copied."""
    coded = bytes([5, 7, 128 + 3, 1, 2, 3])
    header = amira_header((1, 2, 4), coding=f'(HxByteRLE,{len(coded)})')
    (tmp_path / 'a.am').write_bytes(header + coded)
    np.testing.assert_array_equal(
        io.read_volume(tmp_path / 'a.am').data, [[[7, 7, 7, 7], [7, 1, 2, 3]]]
    )


@pytest.mark.parametrize(
    ('kind', 'dtype'),
    [('byte', 'u1'), ('short', 'i2'), ('ushort', 'u2'), ('int', 'i4'), ('float', 'f4'),
     ('double', 'f8')],
)  # fmt: skip
@pytest.mark.parametrize(
    ('start', 'order'),
    [('# AmiraMesh BINARY-LITTLE-ENDIAN 2.1', '<'), ('# AmiraMesh 3D BINARY 2.0', '>'),
     ('# Avizo BINARY-LITTLE-ENDIAN 2.1', '<')],
)  # fmt: skip
def test_kinds_and_byte_orders(kind, dtype, start, order, tmp_path):
    data = ramp(SHAPE, dtype)
    content = amira_header(SHAPE, kind=kind, start=start)
    (tmp_path / 'a.am').write_bytes(content + data.astype(order + dtype).tobytes())
    volume = io.open_volume(tmp_path / 'a.am')
    assert volume.dtype == dtype
    np.testing.assert_array_equal(volume.data[1:4, 2:, :3], data[1:4, 2:, :3])


def test_text(tmp_path):
    data = ramp(SHAPE, 'f4') / 4
    content = amira_header(SHAPE, kind='float', start='# AmiraMesh 3D ASCII 2.0')
    text = '\n'.join(str(v) for v in data.ravel())
    (tmp_path / 'a.am').write_bytes(content + text.encode() + b'\n')
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.am').data, data)


def test_channels(tmp_path):
    data = ramp((*SHAPE, 3), 'f4')
    content = amira_header(SHAPE, kind='float[3]')
    (tmp_path / 'a.am').write_bytes(content + data.astype('<f4').tobytes())
    found = io.read_volume(tmp_path / 'a.am')
    assert found.axes == 'zyxc'
    np.testing.assert_array_equal(found.data, data)


def test_bounding_box_without_unit_is_no_voxel_size(tmp_path):
    (tmp_path / 'a.am').write_bytes(amira_header(SHAPE, unit='') + ramp(SHAPE).tobytes())
    found = io.read_volume(tmp_path / 'a.am')
    assert found.voxel_size_nm is None
    assert found.metadata['spacing_without_unit'] == [100.0, 50.0, 100.0]


def test_several_fields_need_a_name(tmp_path):
    first, second = ramp(SHAPE), labels()
    header = amira_header(SHAPE).replace(
        b'Lattice { byte Labels } @1', b'Lattice { byte A } @1\nLattice { byte B } @2'
    )
    (tmp_path / 'a.am').write_bytes(header + first.tobytes() + b'\n@2\n' + second.tobytes())
    with pytest.raises(InputError, match=r"\['A', 'B'\]"):
        io.read_volume(tmp_path / 'a.am')
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.am', dataset='A').data, first)
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.am', dataset='B').data, second)


def test_what_is_not_understood_is_refused(tmp_path):
    data = ramp(SHAPE).tobytes()
    cases = {
        'coding HxSecret': amira_header(SHAPE, coding=f'(HxSecret,{len(data)})'),
        'stacked coordinates': amira_header(SHAPE).replace(b'"uniform"', b'"stacked"'),
        'field type color': amira_header(SHAPE, kind='color'),
        'no lattice': amira_header(SHAPE).replace(b'define Lattice', b'define Tetrahedra'),
    }
    for reason, header in cases.items():
        (tmp_path / 'a.am').write_bytes(header + data)
        with pytest.raises(InputError, match=reason):
            io.read_volume(tmp_path / 'a.am')
