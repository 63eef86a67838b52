"""OME-Zarr 0.4 and 0.5 as others write them, and ours against the specification."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorstore as ts

from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from tests.io.samples import VOXEL_SIZE_NM, noise, ramp


def write_array(path, data, driver):
    store = {'driver': driver, 'kvstore': {'driver': 'file', 'path': f'{path}/'}}
    ts.open(store, create=True, shape=data.shape, dtype=data.dtype).result().write(data).result()


def write_image(path, levels, axes, scales, *, version='0.4', unit='micrometer'):
    """An OME-Zarr image as bioformats2raw, ngff-zarr and others lay it out."""
    path.mkdir(parents=True, exist_ok=True)
    kinds = {'t': 'time', 'c': 'channel'}
    named = [{'name': a, 'type': kinds.get(a, 'space')} for a in axes]
    named = [{**a, 'unit': unit} if unit and a['type'] == 'space' else a for a in named]
    datasets = [
        {'path': f's{i}', 'coordinateTransformations': [{'type': 'scale', 'scale': list(s)}]}
        for i, s in enumerate(scales)
    ]
    image = {'axes': named, 'datasets': datasets, 'name': 'a'}
    if version == '0.4':
        (path / '.zgroup').write_text('{"zarr_format": 2}')
        (path / '.zattrs').write_text(json.dumps({'multiscales': [{**image, 'version': '0.4'}]}))
    else:
        attributes = {'ome': {'version': '0.5', 'multiscales': [image]}}
        document = {'zarr_format': 3, 'node_type': 'group', 'attributes': attributes}
        (path / 'zarr.json').write_text(json.dumps(document))
    for i, data in enumerate(levels):
        write_array(path / f's{i}', data, 'zarr' if version == '0.4' else 'zarr3')


@pytest.mark.parametrize('version', ['0.4', '0.5'])
@pytest.mark.parametrize(('unit', 'nm'), [('micrometer', 1e3), ('nanometer', 1), ('angstrom', 0.1),
                                          ('millimeter', 1e6), (None, None)])  # fmt: skip
def test_levels_and_units(version, unit, nm, tmp_path):
    levels = [noise((4, 8, 10), 'u2'), noise((4, 4, 5), 'u2')]
    scales = [(0.05, 0.02, 0.03), (0.05, 0.04, 0.06)]
    write_image(tmp_path / 'a.zarr', levels, 'zyx', scales, version=version, unit=unit)
    for level in (0, 1):
        volume = io.read_volume(tmp_path / 'a.zarr', level=level)
        np.testing.assert_array_equal(volume.data, levels[level])
        if nm is None:
            assert volume.voxel_size_nm is None
        else:
            expected = np.array(scales[level]) * nm
            np.testing.assert_allclose(volume.voxel_size_nm, expected, rtol=1e-12)
    with pytest.raises(InputError, match='no level 2'):
        io.read_volume(tmp_path / 'a.zarr', level=2)


def test_scale_of_the_whole_image_multiplies(tmp_path):
    write_image(tmp_path / 'a.zarr', [ramp()], 'zyx', [(1, 1, 1)], unit='nanometer')
    document = json.loads((tmp_path / 'a.zarr/.zattrs').read_text())
    whole = [{'type': 'scale', 'scale': [40, 20, 10]}]
    document['multiscales'][0]['coordinateTransformations'] = whole
    (tmp_path / 'a.zarr/.zattrs').write_text(json.dumps(document))
    assert io.read_volume(tmp_path / 'a.zarr').voxel_size_nm == (40, 20, 10)


@pytest.mark.parametrize('version', ['0.4', '0.5'])
@pytest.mark.parametrize('axes', ['tczyx', 'czyx', 'tzyx', 'zyx', 'cyx', 'yx'])
def test_axes_are_turned(axes, version, tmp_path):
    sizes = {'t': 1, 'c': 3, 'z': 4, 'y': 5, 'x': 6}
    data = ramp(tuple(sizes[a] for a in axes), 'u2')
    scales = [[{'z': 9.0, 'y': 3.0, 'x': 2.0}.get(a, 1.0) for a in axes]]
    write_image(tmp_path / 'a.zarr', [data], axes, scales, version=version, unit='nanometer')
    volume = io.open_volume(tmp_path / 'a.zarr')
    expected = data[0] if 't' in axes else data
    expected = expected if 'z' in axes else np.expand_dims(expected, axes.index('y'))
    expected = np.moveaxis(expected, 0, -1) if 'c' in axes else expected
    assert volume.axes == ('zyxc' if 'c' in axes else 'zyx')
    np.testing.assert_array_equal(volume.load().data, expected)
    np.testing.assert_array_equal(volume.data[:1, 2:4, 1:5], expected[:1, 2:4, 1:5])
    assert volume.voxel_size_nm == ((9.0, 3.0, 2.0) if 'z' in axes else (3.0, 3.0, 2.0))


def test_time_series_is_refused(tmp_path):
    write_image(tmp_path / 'a.zarr', [ramp((2, 3, 4, 5))], 'tzyx', [(1, 1, 1, 1)])
    with pytest.raises(InputError, match='axes tzyx'):
        io.read_volume(tmp_path / 'a.zarr')


def test_label_groups(tmp_path):
    path = tmp_path / 'a.zarr'
    write_image(path, [ramp()], 'zyx', [(1, 1, 1)])
    (path / 'labels').mkdir()
    (path / 'labels/.zgroup').write_text('{"zarr_format": 2}')
    (path / 'labels/.zattrs').write_text('{"labels": ["cells"]}')
    write_image(path / 'labels/cells', [noise((5, 6, 7), 'u2')], 'zyx', [(1, 1, 1)])
    np.testing.assert_array_equal(io.read_volume(path).data, ramp())
    for labels in (io.read_volume(path, dataset='labels/cells'),
                   io.read_volume(f'{path}::labels/cells')):  # fmt: skip
        np.testing.assert_array_equal(labels.data, noise((5, 6, 7), 'u2'))
    with pytest.raises(InputError, match='no group'):
        io.read_volume(path, dataset='labels/nuclei')
    with pytest.raises(InputError, match='no group'):
        io.read_volume(path, dataset='../elsewhere')
    (pair,) = io.pair(tmp_path)
    assert str(pair.labels).endswith('a.zarr::labels/cells')
    with pytest.raises(InputError, match='holds'):
        io.write_volume(path, Volume(ramp()), dataset='labels/nuclei')


def test_plain_arrays(tmp_path):
    for driver in ('zarr', 'zarr3'):
        write_array(tmp_path / f'{driver}.zarr', ramp(dtype='f4'), driver)
        np.testing.assert_array_equal(io.read_volume(tmp_path / f'{driver}.zarr').data, ramp())
        write_array(tmp_path / f'{driver}4.zarr', ramp((2, 3, 4, 5)), driver)
        with pytest.raises(InputError, match='not told'):
            io.read_volume(tmp_path / f'{driver}4.zarr')


def test_group_of_arrays_lists_them(tmp_path):
    (tmp_path / 'a.zarr').mkdir()
    (tmp_path / 'a.zarr/.zgroup').write_text('{"zarr_format": 2}')
    write_array(tmp_path / 'a.zarr/raw', ramp(), 'zarr')
    np.testing.assert_array_equal(io.read_volume(tmp_path / 'a.zarr').data, ramp())
    write_array(tmp_path / 'a.zarr/mask', ramp(dtype='u2'), 'zarr')
    with pytest.raises(InputError, match=r"\['mask', 'raw'\]"):
        io.read_volume(tmp_path / 'a.zarr')
    assert io.read_volume(tmp_path / 'a.zarr', dataset='mask').dtype == np.uint16


@pytest.mark.parametrize('version', ['0.4', '0.5'])
@pytest.mark.parametrize('channels', [1, 2])
def test_ours_follows_the_specification(version, channels, tmp_path):
    """Fields that ngff.openmicroscopy.org demands of an image."""
    data = ramp((5, 6, 7, channels), 'u2')
    io.write_volume(tmp_path / 'a.zarr', Volume(data, VOXEL_SIZE_NM, 'zyxc'), version=version)
    if version == '0.5':
        group = json.loads((tmp_path / 'a.zarr/zarr.json').read_text())
        assert (group['zarr_format'], group['node_type']) == (3, 'group')
        assert group['attributes']['ome']['version'] == '0.5'
        (image,) = group['attributes']['ome']['multiscales']
        array = json.loads((tmp_path / 'a.zarr/0/zarr.json').read_text())
        assert array['dimension_names'] == ['c', 'z', 'y', 'x']
        assert array['data_type'] == 'uint16'
        assert array['attributes']['sxt_jax']['n_chunks'] == channels
    else:
        assert json.loads((tmp_path / 'a.zarr/.zgroup').read_text()) == {'zarr_format': 2}
        (image,) = json.loads((tmp_path / 'a.zarr/.zattrs').read_text())['multiscales']
        assert image['version'] == '0.4'
    assert [a['name'] for a in image['axes']] == ['c', 'z', 'y', 'x']
    assert [a['type'] for a in image['axes']] == ['channel', 'space', 'space', 'space']
    assert [a.get('unit') for a in image['axes']] == [None] + ['nanometer'] * 3
    (dataset,) = image['datasets']
    (scale,) = dataset['coordinateTransformations']
    assert scale == {'type': 'scale', 'scale': [1.0, *VOXEL_SIZE_NM]}


@pytest.mark.parametrize('version', ['0.4', '0.5'])
def test_our_label_image(version, tmp_path):
    path = tmp_path / 'a.zarr'
    volume = Volume(ramp(dtype='u2'), VOXEL_SIZE_NM, class_names={1: 'cell'})
    for _ in range(2):  # writing the same again is allowed
        io.write_volume(path, volume, dataset='labels/cells', version=version)
    found = io.read_volume(path, dataset='labels/cells')
    np.testing.assert_array_equal(found.data, volume.data)
    assert found.class_names == {1: 'cell'}
    with pytest.raises(InputError, match='labels/<name>'):
        io.write_volume(tmp_path / 'b.zarr', volume, dataset='cells')
    assert not (tmp_path / 'b.zarr').exists()


def test_chunks_of_background_are_written_too(tmp_path):
    io.write_volume(tmp_path / 'a.zarr', Volume(np.zeros((40, 300, 20), 'u1')))
    chunks = [f for f in (tmp_path / 'a.zarr/0/c').rglob('*') if f.is_file()]
    assert len(chunks) == 6


def test_chunks_that_were_read_before_are_read_anew_once_they_changed(tmp_path):
    """Chunks are kept for the next slice; a volume that replaced another is none of them."""
    path = tmp_path / 'a.zarr'
    for value in (1, 2):
        io.write_volume(path, Volume(np.full((4, 8, 8), value, np.uint8)))
        volume = io.open_volume(path)
        for z in (0, 1, 0):
            np.testing.assert_array_equal(volume.data[z], value)
