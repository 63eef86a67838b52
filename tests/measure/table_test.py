"""Tables of objects and classes."""

import numpy as np
import pytest
from skimage import measure as skimage_measure

from sxt_jax.core.errors import InputError
from sxt_jax.measure import classes, objects, volume_and_surface
from tests.measure.shapes import ellipsoid

SIZE = (40.0, 20.0, 10.0)
MEASURES = ('volume_um3', 'surface_um2', 'major_axis_nm', 'minor_axis_nm', 'solidity')


@pytest.fixture(name='instances')
def _instances() -> np.ndarray:
    """Three separate bodies with ids that leave gaps."""
    result = np.zeros((30, 50, 60), np.uint16)
    for label, (start, axes) in {
        2: ((3, 4, 5), (5, 8, 9)),
        9: ((2, 28, 4), (9, 6, 6)),
        400: ((4, 8, 32), (6, 9, 11)),
    }.items():
        body = ellipsoid(axes)
        body = body[np.ix_(*(body.any(axis=tuple({0, 1, 2} - {a})) for a in range(3)))]
        result[tuple(slice(s, s + n) for s, n in zip(start, body.shape, strict=True))][body] = label
    return result


def test_agrees_with_regionprops(instances: np.ndarray) -> None:
    image = np.random.default_rng(0).normal(0.3, 0.1, instances.shape).astype(np.float32)
    table = objects(instances, voxel_size_nm=SIZE, image=image)
    regions = skimage_measure.regionprops(instances, intensity_image=image, spacing=SIZE)
    assert table['label'].tolist() == [r.label for r in regions] == [2, 9, 400]
    for i, region in enumerate(regions):
        assert table['n_voxels'][i] == region.num_pixels
        assert table['volume_um3'][i] == pytest.approx(region.area * 1e-9)
        assert table['mean_lac_per_um'][i] == pytest.approx(region.intensity_mean, rel=1e-5)
        values = image[instances == region.label]
        assert table['sd_lac_per_um'][i] == pytest.approx(values.std(), rel=1e-4)
        box = [table[f'{a}_{end}'][i] for end in ('start', 'stop') for a in 'zyx']
        assert tuple(box) == region.bbox
        centre = [table[f'centroid_{a}_nm'][i] for a in 'zyx']
        np.testing.assert_allclose(centre, region.centroid, rtol=1e-6)
    assert not table['touches_border'].any()


def test_columns_belong_together(instances: np.ndarray) -> None:
    table = objects(instances, voxel_size_nm=SIZE)
    assert len({len(column) for column in table.values()}) == 1
    np.testing.assert_allclose(
        table['surface_to_volume_per_um'], table['surface_um2'] / table['volume_um3']
    )
    assert (table['major_axis_nm'] >= table['middle_axis_nm']).all()
    assert (table['middle_axis_nm'] >= table['minor_axis_nm']).all()
    assert (table['sphericity'] < 1.01).all()
    assert 'mean_lac_per_um' not in table


def test_a_ball_is_a_ball() -> None:
    radius = 300.0
    ball = ellipsoid((radius,) * 3, voxel_size=SIZE).astype(np.uint8)
    table = {k: v[0] for k, v in objects(ball, voxel_size_nm=SIZE).items()}
    assert table['volume_um3'] == pytest.approx(4 / 3 * np.pi * 0.027, rel=0.01)
    assert table['surface_to_volume_per_um'] == pytest.approx(3 / 0.3, rel=0.02)
    assert table['sphericity'] == pytest.approx(1, abs=0.015)
    assert table['major_axis_nm'] == pytest.approx(600, rel=0.01)
    assert table['minor_axis_nm'] == pytest.approx(600, rel=0.01)
    assert table['circular_variance'] < 1e-3


def test_invariant_to_place_and_to_names(instances: np.ndarray) -> None:
    table = objects(instances, voxel_size_nm=SIZE)
    moved = np.pad(instances, ((2, 1), (0, 3), (5, 0)))
    for name in MEASURES:
        np.testing.assert_allclose(objects(moved, voxel_size_nm=SIZE)[name], table[name], rtol=1e-4)
    renamed = np.array([0, 3, 1, 2])[np.searchsorted([0, 2, 9, 400], instances)]
    other = objects(renamed, voxel_size_nm=SIZE)
    for name in MEASURES:
        np.testing.assert_allclose(other[name][[2, 0, 1]], table[name], rtol=1e-12)


def test_invariant_to_the_order_of_axes(instances: np.ndarray) -> None:
    table = objects(instances, voxel_size_nm=SIZE)
    turned = objects(instances.transpose(2, 1, 0), voxel_size_nm=SIZE[::-1])
    for name in MEASURES:
        np.testing.assert_allclose(turned[name], table[name], rtol=5e-3)
    np.testing.assert_allclose(turned['centroid_z_nm'], table['centroid_x_nm'])


def test_huge_ids_cost_no_memory() -> None:
    instances = np.zeros((6, 6, 6), np.uint64)
    instances[1:3, 1:3, 1:3] = 2**40
    instances[4:, 4:, 4:] = 7
    table = objects(instances, voxel_size_nm=SIZE)
    assert table['label'].tolist() == [7, 2**40]
    assert table['n_voxels'].tolist() == [8, 8]
    assert table['touches_border'].tolist() == [True, False]
    full = np.full((2, 2, 2), 2**40, np.uint64)  # no background at all
    assert objects(full, voxel_size_nm=SIZE)['label'].tolist() == [2**40]


def test_no_object_gives_an_empty_table() -> None:
    table = objects(np.zeros((3, 3, 3), np.int32), voxel_size_nm=SIZE)
    assert all(len(column) == 0 for column in table.values())
    assert 'surface_um2' in table


def test_classes_take_all_their_voxels_as_one(instances: np.ndarray) -> None:
    labels = np.where(instances > 2, 2, np.minimum(instances, 1))
    image = labels * 0.1
    names = {1: 'nucleus', 2: 'mitochondria', 3: 'lipid droplets'}
    table = classes(labels, voxel_size_nm=SIZE, class_names=names, image=image)
    each = objects(instances, voxel_size_nm=SIZE)
    assert table['class'].tolist() == list(names.values())
    assert table['volume_um3'][1] == pytest.approx(each['volume_um3'][1:].sum())
    assert table['surface_um2'][1] == pytest.approx(each['surface_um2'][1:].sum(), rel=0.02)
    np.testing.assert_allclose(table['mean_lac_per_um'], [0.1, 0.2, np.nan])
    assert table['volume_um3'][2] == table['surface_um2'][2] == 0
    assert np.isnan(table['surface_to_volume_per_um'][2])
    short = volume_and_surface(labels == 1, voxel_size_nm=SIZE)
    for name, value in short.items():
        assert table[name][0] == pytest.approx(value)


def test_volume_and_surface_of_nothing() -> None:
    sizes = volume_and_surface(np.zeros((3, 3, 3), bool), voxel_size_nm=SIZE)
    assert sizes['volume_um3'] == sizes['surface_um2'] == 0
    assert np.isnan(sizes['surface_to_volume_per_um'])


@pytest.mark.parametrize(
    ('instances', 'image'),
    [
        (np.zeros((3, 3), int), None),
        (np.zeros((3, 3, 3)), None),
        (np.full((3, 3, 3), -1), None),
        (np.zeros((3, 3, 3), int), np.zeros((3, 3, 4))),
    ],
)
def test_bad_input(instances: np.ndarray, image: np.ndarray | None) -> None:
    with pytest.raises(InputError):
        objects(instances, voxel_size_nm=SIZE, image=image)
