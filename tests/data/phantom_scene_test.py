"""The scene: truth that agrees with itself, with geometry, and with the coefficients asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.data import phantom
from sxt_jax.data.phantom import classes, shapes

SMALL = phantom.SceneParameters(
    shape=(48, 48, 48),
    voxel_size_nm=100.0,
    capillary_inner_radius_nm=2250.0,
    capillary_wall_nm=300.0,
    capillary_shift_nm=100.0,
    n_cells=(1, 1),
    cell_semi_axes_nm=((1750, 1850),) * 3,
    cell_deformation=0.04,
    nucleus_fraction=(0.5, 0.55),
    n_nucleoli=(1, 1),
    n_mitochondria=(5, 8),
    mitochondrion_length_nm=(500, 900),
    n_lipid_droplets=(3, 5),
    n_vacuoles=(2, 3),
    n_filopodia=(6, 10),
    filopodium_length_nm=(300, 600),
    n_beads=(2, 3),
    bead_radius_nm=(300, 450),
)


def _scene(seed: int, **changes) -> phantom.Scene:
    return phantom.build_scene(np.random.default_rng(seed), dataclasses.replace(SMALL, **changes))


@pytest.fixture(scope='module')
def scene() -> phantom.Scene:
    return _scene(3)


def test_all_classes_of_a_capillary_appear(scene):
    found = set(np.unique(scene.labels).tolist())
    assert found == set(range(classes.CAPILLARY + 1))
    assert scene.labels.dtype == np.uint8
    assert scene.instances.dtype == scene.organelles.dtype == np.int32
    assert scene.absorption.dtype == np.float32


def test_tables_and_grids_agree(scene):
    objects = scene.objects
    listed = objects['label']
    assert listed.tolist() == list(range(1, len(listed) + 1))
    assert len({len(column) for column in objects.values()}) == 1
    in_grids = set(np.unique(scene.instances)) | set(np.unique(scene.organelles))
    assert in_grids - {0} <= set(listed.tolist())
    for row, label in enumerate(listed):
        where = (scene.instances if objects['n_voxels'][row] == 0 else scene.organelles) == label
        if not where.any():
            where = scene.instances == label
        assert where.sum() == objects['n_voxels'][row]
        if not where.any():
            continue
        name, classes_here = objects['class_name'][row], set(np.unique(scene.labels[where]))
        if name == 'cells':
            assert classes_here <= set(classes.CELL_CLASSES)
        else:
            assert classes_here == {objects['class_id'][row]}
        if objects['cell'][row]:
            assert set(np.unique(scene.instances[where])) == {objects['cell'][row]}
        mean = scene.absorption[where].astype(np.float64).mean()
        assert objects['mean_lac_per_um'][row] == pytest.approx(mean, rel=1e-5)
    in_cell = np.isin(scene.labels, classes.CELL_CLASSES)
    np.testing.assert_array_equal(in_cell | (scene.labels == classes.BEAD), scene.instances > 0)


def test_volumes_are_those_of_the_voxels(scene):
    objects = scene.objects
    voxels_um3 = objects['n_voxels'] * 0.1**3
    big = objects['n_voxels'] > 100
    assert big.sum() >= 6
    np.testing.assert_allclose(voxels_um3[big], objects['volume_um3'][big], rtol=0.06)
    cell = objects['class_name'] == 'cells'
    np.testing.assert_allclose(voxels_um3[cell], objects['volume_um3'][cell], rtol=0.015)
    for kind in ('mitochondria', 'lipid droplets', 'beads'):
        of_kind = objects['class_name'] == kind
        total = objects['volume_um3'][of_kind].sum()
        assert voxels_um3[of_kind].sum() == pytest.approx(total, rel=0.1)


def test_centroids_are_those_of_the_voxels(scene):
    objects = scene.objects
    for row in np.flatnonzero(objects['class_name'] == 'mitochondria'):
        z, y, x = np.nonzero(scene.organelles == objects['label'][row])
        middle = (np.array([z.mean(), y.mean(), x.mean()]) + 0.5) * 100
        listed = [objects[f'centroid_{axis}_nm'][row] for axis in 'zyx']
        np.testing.assert_allclose(listed, middle, atol=40)


def test_organelles_are_connected_and_lie_in_their_place(scene):
    for label in np.unique(scene.organelles)[1:]:
        if (scene.labels[scene.organelles == label] != classes.FILOPODIUM).all():
            _, parts = ndimage.label(scene.organelles == label, np.ones((3, 3, 3)))
            assert parts == 1
    outside = ~np.isin(scene.labels, classes.CELL_CLASSES)
    near_outside = ndimage.binary_dilation(outside)
    inner = (classes.NUCLEUS, classes.NUCLEOLUS, classes.MITOCHONDRION, classes.LIPID_DROPLET)
    assert not (near_outside & np.isin(scene.labels, inner)).any()


def test_mean_absorption_is_what_was_asked_for():
    scene = _scene(5, voxel_size_nm=100.0, absorption_variation=0.0)
    asked = dataclasses.asdict(SMALL.absorption)
    # Away from borders, where voxels are shared between materials.
    expected = {
        classes.CYTOPLASM: asked['cytoplasm'],
        classes.NUCLEUS: asked['nucleus'],
        classes.NUCLEOLUS: asked['nucleolus'],
        classes.MITOCHONDRION: asked['mitochondria'],
        classes.LIPID_DROPLET: asked['lipid_droplets'],
        classes.VACUOLE: asked['vacuoles'],
        classes.BEAD: asked['beads'],
        classes.CAPILLARY: asked['capillary'],
    }
    for class_id, lac in expected.items():
        core = ndimage.binary_erosion(scene.labels == class_id)
        assert core.sum() > 3, class_id
        assert scene.absorption[core].mean() == pytest.approx(lac, rel=0.1), class_id
    shell = scene.absorption[scene.labels == classes.MEMBRANE].mean()
    assert asked['ice'] < asked['cytoplasm'] < shell < asked['membrane'] * 1.02
    rows = scene.objects['class_name'] == 'mitochondria'
    np.testing.assert_allclose(scene.objects['material_lac_per_um'][rows], asked['mitochondria'])


def test_objects_vary_in_absorption():
    scene = _scene(5, absorption_variation=0.05, n_mitochondria=(10, 10))
    rows = scene.objects['class_name'] == 'mitochondria'
    lac = scene.objects['material_lac_per_um'][rows]
    assert rows.sum() >= 6
    assert 0.01 < lac.std() / lac.mean() < 0.1


def test_same_seed_same_bits():
    first, again, other = _scene(7), _scene(7), _scene(8)
    for name in ('absorption', 'labels', 'instances', 'organelles'):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert (getattr(first, name) != getattr(other, name)).any()
    for name, column in first.objects.items():
        np.testing.assert_array_equal(column, again.objects[name])


def test_two_cells_touch_and_stay_two():
    scene = _scene(
        1, n_cells=(2, 2), shape=(48, 80, 48), cell_semi_axes_nm=((1500, 1700),) * 3, n_beads=(0, 0)
    )
    rows = scene.objects['class_name'] == 'cells'
    assert scene.objects['label'][rows].tolist() == [1, 2]
    assert scene.labels.shape == (48, 80, 48)
    apart = ndimage.distance_transform_edt(scene.instances != 1)[scene.instances == 2].min()
    assert apart < 2  # voxels: they touch


def test_adherent_cell_lies_on_the_film():
    parameters, _ = phantom.adherent_cell_parameters((40, 64, 64))
    scene = phantom.build_scene(np.random.default_rng(2), parameters)
    cell = np.flatnonzero((scene.instances == 1).any((1, 2)))
    film = 0.15 * 40
    assert abs(cell[0] - film) <= 1
    widths = [
        np.ptp(np.flatnonzero((scene.instances == 1).any(axes)))
        for axes in [(1, 2), (0, 2), (0, 1)]
    ]
    assert widths[0] < 0.6 * min(widths[1:])
    names = scene.objects['class_name'].tolist()
    assert names.count('filopodia') >= 3
    assert (scene.labels == classes.FIDUCIAL).any()
    assert scene.absorption.max() > 5


def test_texture_and_deformation_can_be_left_out():
    scene = _scene(
        4, texture=0.0, absorption_variation=0.0, n_filopodia=(0, 0), n_lipid_droplets=(0, 0)
    )
    core = ndimage.binary_erosion(scene.labels == classes.NUCLEUS)
    np.testing.assert_allclose(scene.absorption[core], SMALL.absorption.nucleus, rtol=1e-5)
    assert not np.isin(scene.labels, (classes.FILOPODIUM, classes.LIPID_DROPLET)).any()


def test_shapes_know_their_volume_surface_and_distance():
    rng = np.random.default_rng(0)
    ball = shapes.ball(np.array([5.0, 6, 7]), 300.0)
    assert ball.volume() == pytest.approx(4 / 3 * np.pi * 300**3, rel=1e-6)
    assert ball.surface() == pytest.approx(4 * np.pi * 300**2, rel=1e-3)
    body = shapes.random_star_body(
        rng,
        np.zeros(3),
        np.array([200.0, 300, 350]),
        shapes.random_rotation(rng),
        deformation=0.1,
        roughness=0.02,
    )
    tube = shapes.random_tube(rng, np.zeros(3), np.ones(3), length=900.0, radius=90.0, bending=0.7)
    for shape in (body, tube):
        low, high = shape.bounds()
        points = rng.uniform(low, high, (400_000, 3))
        inside = shape.distance(tuple(points.T.astype(np.float32))) < 0
        assert inside.mean() * np.prod(high - low) == pytest.approx(shape.volume(), rel=0.02)
        np.testing.assert_allclose(points[inside].mean(0), shape.centroid(), atol=6)
    away = body.centre + 5000 * np.eye(3)
    assert (body.distance(tuple(away.T)) > 1000).all()


def test_ellipsoid_surface_matches_thomsen():
    a, b, c = 300.0, 200.0, 150.0
    body = dataclasses.replace(shapes.ball(np.zeros(3), 1.0), semi_axes=np.array([a, b, c]))
    p = 1.6075
    thomsen = (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p) * 4 * np.pi
    assert body.surface() == pytest.approx(thomsen, rel=0.012)


def test_odd_sizes_and_empty_scenes():
    scene = _scene(0, shape=(30, 53, 41), n_cells=(2, 3), cell_semi_axes_nm=((1000, 1200),) * 3)
    assert scene.labels.shape == (30, 53, 41)
    assert 2 <= (scene.objects['class_name'] == 'cells').sum() <= 3
    empty = _scene(0, n_cells=(0, 0), n_beads=(0, 0), container='none')
    assert not empty.labels.any()
    assert all(len(column) == 0 for column in empty.objects.values())
    np.testing.assert_array_equal(empty.absorption, np.float32(SMALL.absorption.ice))


def test_cells_without_room_are_refused():
    with pytest.raises(InputError, match='no room'):
        _scene(0, capillary_inner_radius_nm=100.0)


def test_merge_labels():
    labels = np.arange(13, dtype=np.uint8).reshape(1, 1, 13)
    merged, names = phantom.merge_labels(labels, 'acseg')
    assert merged.ravel().tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0, 0, 0]
    assert names == {0: 'background', 1: 'cytoplasm', 2: 'beads'}
    custom, names = phantom.merge_labels(labels, {'droplets': (5,), 'rest': (1, 6)})
    assert custom.ravel().tolist() == [0, 2, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0]
    assert names[2] == 'rest'
    with pytest.raises(InputError, match='acseg'):
        phantom.merge_labels(labels, 'nothing')


@pytest.mark.parametrize(
    'field', [{'shape': (48, 48)}, {'voxel_size_nm': 0.0}, {'container': 'cup'}]
)
def test_bad_scene_parameters_are_refused(field):
    with pytest.raises(InputError, match=next(iter(field))):
        dataclasses.replace(SMALL, **field)
