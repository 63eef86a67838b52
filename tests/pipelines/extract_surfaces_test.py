"""Surfaces from files of labels: which objects, where, how large, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from sxt_jax.pipelines.extract_surfaces import Options, extract_surfaces, make_surfaces
from sxt_jax.pipelines.labelled_objects import Choice, Objects, objects_of, parse_voxel_size
from tests.measure.shapes import ellipsoid
from tests.measure.surface_files_test import read_obj, read_ply

SIZE = (20.0, 10.0, 10.0)
NAMES = {0: 'background', 1: 'membranes', 2: 'droplets'}


def _scene() -> np.ndarray:
    """Two balls of class 1 (one with a cavity), one of class 2, and a speck of class 1."""
    labels = np.zeros((24, 50, 80), np.uint8)
    ball = ellipsoid((90, 90, 90), voxel_size=SIZE)
    cavity = ellipsoid((40, 40, 40), voxel_size=SIZE)
    hollow = ball & ~np.pad(cavity, ((3, 3), (5, 5), (5, 5)))
    for k, (body, value) in enumerate(((ball, 1), (hollow, 1), (ball, 2))):
        start = 4, 14, 2 + 25 * k
        part = tuple(slice(s, s + n) for s, n in zip(start, body.shape, strict=True))
        labels[part][body] = value
    labels[20, 2:4, 2:4] = 1
    return labels


@pytest.fixture(name='path', scope='module')
def _path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('surfaces') / 'labels.h5'
    write_volume(path, Volume(_scene(), SIZE, class_names=NAMES))
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_one_file_of_a_class(path: Path, tmp_path: Path) -> None:
    made = extract_surfaces(
        path,
        tmp_path / 'scene.ply',
        choice=Choice(class_='1'),
        options=Options(z_smoothing=0, min_faces=500),
    )
    assert made.n_objects == 2  # the hollow ball is one, the speck is left out
    vertices, faces = read_ply(tmp_path / 'scene.ply')
    assert len(faces) == made.n_faces
    p, q, r = (vertices[faces[:, k]] for k in range(3))
    volume = np.einsum('ij,ij->', p, np.cross(q, r)) / 6
    labels = _scene()
    expected = (np.count_nonzero(labels == 1) - 4) * np.prod(SIZE)
    assert volume == pytest.approx(expected, rel=2e-3)
    rows = _rows(tmp_path / 'scene.csv')
    assert [row['label'] for row in rows] == ['1', '2']
    assert float(rows[0]['volume_um3']) == pytest.approx(4 / 3 * np.pi * 0.09**3, rel=0.03)
    # The wall of the cavity is part of the surface.
    assert float(rows[1]['surface_um2']) > 1.1 * float(rows[0]['surface_um2'])
    assert (tmp_path / 'scene.png').read_bytes()[:4] == b'\x89PNG'


def test_a_folder_of_instances(path: Path, tmp_path: Path) -> None:
    options = Options(picture=False, min_faces=100)
    made = extract_surfaces(path, tmp_path / 'out', choice=Choice(instances=True), options=options)
    assert made.n_objects == 2  # ids 1 and 2; all of an id is one object
    names = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert names == ['object_1.obj', 'object_2.obj', 'objects.csv']
    vertices, _ = read_obj(tmp_path / 'out' / 'object_2.obj')
    middle = (vertices.min(0) + vertices.max(0)) / 2
    there = np.argwhere(_scene() == 2)
    expected = (there.min(0) + there.max(0)) / 2 * SIZE
    np.testing.assert_allclose(middle, expected[::-1], atol=4)


def test_smoothing_along_z_mends_a_missed_slice(tmp_path: Path) -> None:
    labels = np.pad(ellipsoid((9, 9, 9)), 2).astype(np.uint8)
    labels[labels.shape[0] // 2] = 0
    write_volume(tmp_path / 'labels.h5', Volume(labels, (10.0,) * 3))
    for depth, n in ((0, 2), (2, 1)):
        options = Options(z_smoothing=depth, min_faces=50, picture=False)
        made = extract_surfaces(tmp_path / 'labels.h5', tmp_path / f'{n}.stl', options=options)
        assert made.n_objects == n
    both = objects_of('x', labels.astype(np.int32), (10.0,) * 3, 0)
    (alone,) = make_surfaces(both, z_smoothing=2).values()
    volume = np.count_nonzero(labels) + np.count_nonzero(labels[labels.shape[0] // 2 + 1])
    assert alone.volume_um3 == pytest.approx(volume * 1e-6, rel=0.02)


def test_an_object_at_the_end_of_the_volume_is_smoothed_in_place() -> None:
    labels = np.zeros((12, 8, 8), np.int32)
    labels[0:5, 2:6, 2:6] = 3
    objects = Objects(labels, (10.0,) * 3, {3: (slice(0, 5), slice(2, 6), slice(2, 6))})
    surface = make_surfaces(objects, z_smoothing=2)[3]
    middle = (surface.vertices_nm.min(0) + surface.vertices_nm.max(0)) / 2
    np.testing.assert_allclose(middle, [20, 35, 35], atol=1)
    assert objects.touches_border(3)


def test_tidied_first(path: Path, tmp_path: Path) -> None:
    options = Options(z_smoothing=0, min_faces=0, picture=False)
    for i, (more, n) in enumerate(
        (
            ({}, 3),
            ({'min_size': 5}, 2),
            ({'erode': 1.5}, 2),
            ({'crop_border': 4}, 2),
        )
    ):
        choice = Choice(class_='membranes', **more)
        made = extract_surfaces(path, tmp_path / f'{i}.obj', choice=choice, options=options)
        assert made.n_objects == n, more


def test_what_is_wrong_is_told_and_nothing_written(path: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / 'bare.npy', Volume(_scene()))
    write_volume(tmp_path / 'empty.h5', Volume(np.zeros((3, 4, 5), np.uint8), SIZE))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    before = sorted(tmp_path.rglob('*'))
    cases = (
        (path, 'out.obj', {}, {}, 'labels 1 .membranes., 2 .droplets.; expected one of them as'),
        (path, 'out.obj', {'class_': 'beads'}, {}, "no voxel of class 'beads'"),
        (path, 'out.obj', {'class_': '2', 'erode': 30}, {}, 'no object is left'),
        (path, 'out.obj', {'class_': '2', 'erode': -1}, {}, '--erode: -1'),
        (path, 'out.obj', {'class_': '2', 'min_size': 10**6}, {}, 'none of 1 objects has 1000000'),
        (path, 'out.obj', {'class_': '2', 'instances': True}, {}, '--class'),
        (path, 'out.obj', {'class_': '2'}, {'min_faces': 10**6}, 'has 1000000 faces'),
        (path, 'out.vtk', {'class_': '2'}, {}, 'out.vtk: the suffix'),
        (path, 'full', {'class_': '2'}, {}, 'has files in it'),
        (path, 'out', {'class_': '2'}, {'format': 'vtk'}, "--format: 'vtk'"),
        (path, 'out.obj', {'class_': '2'}, {'format': 'stl'}, '--format: stl, with out.obj'),
        (path, 'out.obj', {'class_': '2'}, {'z_smoothing': -1}, '--z_smoothing'),
        (tmp_path / 'bare.npy', 'out.obj', {'class_': '2'}, {}, 'no voxel size in the file'),
        (tmp_path / 'empty.h5', 'out.obj', {}, {}, 'all are 0'),
        (tmp_path / 'empty.h5', 'out.obj', {'instances': True}, {}, 'all are 0'),
        (tmp_path / 'none.h5', 'out.obj', {}, {}, 'none.h5: does not exist'),
    )
    for source, name, chosen, wanted, told in cases:
        with pytest.raises(InputError, match=told):
            extract_surfaces(
                source, tmp_path / name, choice=Choice(**chosen), options=Options(**wanted)
            )
    assert sorted(tmp_path.rglob('*')) == before


def test_voxel_size_of_a_flag() -> None:
    assert parse_voxel_size(None) is None
    assert parse_voxel_size(['9.8']) == (9.8, 9.8, 9.8)
    assert parse_voxel_size(['1', '2', '3']) == (1, 2, 3)
    with pytest.raises(InputError):
        parse_voxel_size(['1', 'x', '3'])
