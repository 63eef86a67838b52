"""Awkward volumes from flows to instances and to files, in a plane and in space.

Further ones: cells of awkward kinds in reconstruct_test, and what is refused there and in
tests/pipelines/reconstruct_instances_test.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.instances import Recipe, labels_to_flows, reconstruct
from sxt_jax.io import read_volume, write_volume
from sxt_jax.metrics import average_precision, contingency_table, matched_dice
from sxt_jax.pipelines.reconstruct_instances import reconstruct_file
from tests.instances.reconstruct_test import read_published

# One shape and one cell radius for most tests, so that one program serves them.
SHAPES = {2: (44, 48), 3: (18, 44, 48)}
RADIUS = 6.0
RANKS = pytest.mark.parametrize('rank', [2, 3])
KINDS = pytest.mark.parametrize('kind', ['heat', 'tanh'])
PUBLISHED = Recipe.published(min_diameter=6, max_diameter=60)


def squares(shape, centre):
    """Squared distances; a centre in space lies in its plane (y, x) for an image."""
    centre = centre[-len(shape) :]
    return np.square(np.indices(shape) - np.reshape(centre, (-1, *[1] * len(shape)))).sum(0)


def paint(rank, *balls):
    """Cells 1, 2, … of (centre, radius); the first has what several want."""
    labels = np.zeros(SHAPES[rank], np.int32)
    for number, (centre, radius) in enumerate(balls, 1):
        labels[(squares(labels.shape, centre) <= radius**2) & (labels == 0)] = number
    return labels


def find(labels, *, kind='heat', noise=0.0, outside=None, cell_radius=RADIUS, **options):
    """Instances of the flows of cells, with noise in the cells, and of `outside` around them."""
    flows = np.asarray(labels_to_flows(labels, kind=kind))
    sigma = np.where(labels > 0, noise, noise if outside is None else outside)[..., None]
    flows = flows + sigma.astype(np.float32) * np.random.default_rng(0).standard_normal(
        flows.shape, np.float32
    )
    found = reconstruct(labels > 0, flows, cell_radius=cell_radius, **options)
    assert found.dtype == np.int32
    return np.asarray(found)


def assert_all_found(found, labels, *, iou=0.9, lost=0):
    """As many as there are, each with its partner, no background, all but few foreground voxels."""
    assert average_precision(found, labels, thresholds=(iou,)).ap[0] == 1
    assert not found[labels == 0].any()
    assert (found[labels > 0] == 0).sum() <= lost
    assert found.max() == len(np.unique(found)) - 1


@pytest.mark.parametrize(
    ('rank', 'recipe'),
    [(2, None), (3, None), pytest.param(3, PUBLISHED, marks=pytest.mark.slow)],
    ids=['2', '3', '3-published'],
)
def test_without_foreground_there_is_nothing_whatever_the_flows(rank, recipe):
    shape = SHAPES[rank]
    flows = np.random.default_rng(0).normal(0, 0.5, (*shape, rank)).astype(np.float32)
    foregrounds = [np.zeros(shape, bool)]
    if rank == 2 or recipe:  # another program, which in space takes long to compile
        foregrounds.append(np.full(shape, 0.4, np.float32))
    for foreground in foregrounds:
        found = reconstruct(foreground, flows, cell_radius=RADIUS, recipe=recipe)
        assert found.shape == shape
        assert not np.asarray(found).any()


@RANKS
@KINDS
def test_one_cell(rank, kind):
    labels = paint(rank, ((9, 20, 25), 7))
    assert_all_found(find(9 * labels, kind=kind, noise=0.2), labels)


@RANKS
@KINDS
def test_one_cell_that_is_the_whole_volume(rank, kind):
    labels = np.full(SHAPES[rank], 3, np.int32)
    np.testing.assert_array_equal(find(labels, kind=kind), 1)


@RANKS
def test_a_cell_of_one_voxel_is_too_small(rank):
    labels = paint(rank, ((9, 20, 25), 0), ((9, 20, 35), 7))
    assert (labels == 1).sum() == 1
    np.testing.assert_array_equal(find(labels), labels == 2)


@RANKS
@KINDS
@pytest.mark.parametrize('noise', [0.0, 0.3])
def test_cells_that_the_border_cuts(rank, kind, noise):
    corners = ((0, 0, 0), (17, 43, 0), (0, 43, 47), (17, 0, 47))
    labels = paint(rank, *((corner, 9) for corner in corners), ((9, 21, 24), 7))
    assert_all_found(find(labels, kind=kind, noise=noise), labels)


@RANKS
@KINDS
@pytest.mark.parametrize('bridge', ['face', 'corner'])
def test_two_cells_joined_by_one_voxel_stay_two(rank, kind, bridge):
    labels = paint(rank, ((9, 20, 13), 6), ((9, 20, 29), 6))
    # The gap is 20 … 22 along x: one voxel between two that belong to either cell, or aslant.
    for x, number in ((20, 1), (21, 1), (22, 2)):
        labels[(9, 20, x)[-rank:]] = number
    if bridge == 'corner':
        labels[(9, 20, 21)[-rank:]] = 0
        labels[(9, 21, 21)[-rank:]] = 1
    assert ndimage.label(labels, np.ones((3,) * rank))[1] == 1
    for noise in (0.0, 0.3):
        # Nothing leads from a voxel that hangs by a corner alone into its cell.
        assert_all_found(find(labels, kind=kind, noise=noise), labels, lost=bridge == 'corner')


def bent(rank, *, gap):
    """A ring of radius 14 and thickness 10, and a C where a gap is cut into it."""
    labels = np.zeros(SHAPES[rank], np.int32)
    around = np.sqrt(squares(labels.shape[-2:], (21, 24)))
    across = np.zeros(1) if rank == 2 else np.arange(SHAPES[3][0]) - 8.5
    place = np.square(around - 14) + np.square(across.reshape(-1, *[1] * 2))
    labels[place.reshape(labels.shape) <= 25] = 1
    if gap:
        labels[..., 17:26, 24:] = 0
    return labels


@RANKS
@pytest.mark.parametrize('gap', [True, False], ids=['C', 'ring'])
@pytest.mark.parametrize('kind', ['heat', 'tanh', 'span'])
def test_a_bent_cell_is_one_although_its_centroid_is_outside(rank, gap, kind):
    labels = bent(rank, gap=gap)
    assert not labels[(8, 21, 24)[-rank:]]
    for noise in (0.0, 0.3):
        # Heat comes round a ring from both sides. Where it meets, a few voxels may lead nowhere.
        lost = 0.02 * labels.sum() if kind == 'heat' and not gap else 0
        assert_all_found(find(labels, kind=kind, noise=noise), labels, lost=lost)


@pytest.mark.parametrize('gap', [True, False], ids=['C', 'ring'])
@pytest.mark.parametrize(
    'rank',
    [
        2,
        pytest.param(
            3,
            marks=pytest.mark.xfail(
                strict=True,
                reason='the centre of the bent cell lies at its inner side; smoothed with the '
                'flows of the cell within, the flows there lead out of it, and both become one',
            ),
        ),
    ],
)
def test_a_cell_within_a_bent_one_stays_apart_by_heat(rank, gap):
    labels = bent(rank, gap=gap)
    labels[(squares(labels.shape, (8.5, 21, 24)) <= 81) & (labels == 0)] = 2
    assert ndimage.label(labels)[1] == 1
    # Published heat flows read the warmer neighbour across a border, so some voxels change sides.
    assert_all_found(find(labels, noise=0.1), labels, iou=0.8, lost=0.02 * (labels > 0).sum())


@RANKS
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('inside', [True, False])
def test_a_single_flow_that_is_not_finite_is_told(rank, value, inside):
    labels = paint(rank, ((9, 20, 25), 7))
    flows = np.array(labels_to_flows(labels))
    flows[tuple(np.argwhere((labels > 0) == inside)[5])][0] = value
    with pytest.raises(InputError) as told:
        reconstruct(labels > 0, flows, cell_radius=RADIUS)
    assert str(told.value) == 'flows: NaN or infinity; expected finite vectors'


@RANKS
@KINDS
def test_voxels_longer_along_one_axis(rank, kind):
    size = {2: (2.0, 1.0), 3: (2.0, 1.0, 1.0)}[rank]
    fine = np.zeros(np.multiply(SHAPES[rank], np.int32(size)), np.int32)
    centres = {
        2: [(20, 11), (22, 30), (62, 20)],
        3: [(9, 20, 11), (11, 22, 30), (27, 36, 20)],
    }[rank]
    for number, centre in enumerate(centres, 1):
        fine[(squares(fine.shape, centre) <= 81) & (fine == 0)] = number
    labels = fine[::2]  # round cells, seen with voxels twice as long along the first axis
    flows = np.asarray(labels_to_flows(labels, kind=kind))
    found = np.asarray(reconstruct(labels > 0, flows, cell_radius=9, voxel_size=size))
    assert_all_found(found, labels, iou=0.85)
    if rank == 2:
        turned = reconstruct(
            (labels > 0).T, flows.swapaxes(0, 1)[..., ::-1], cell_radius=9, voxel_size=size[::-1]
        )
        table = contingency_table(np.asarray(turned).T, found)
        assert matched_dice(table).mean > 0.99


def test_more_objects_than_16_bits_count_reach_the_file(tmp_path):
    labels = np.zeros((1, 518, 518), np.int32)
    own = labels[0, ::2, ::2]
    own[...] = np.arange(1, own.size + 1).reshape(own.shape)
    assert labels.max() > 65_536
    saved = np.zeros((*labels.shape, 3), np.float32)
    saved[..., 0] = labels > 0
    write_volume(tmp_path / 'in.h5', Volume(saved, axes='zyxc'))
    for suffix in ('.tif', '.h5'):
        output = tmp_path / f'out{suffix}'
        assert reconstruct_file([tmp_path / 'in.h5'], output, cell_radius=0.5) == labels.max()
        found = read_volume(output)
        assert found.dtype == np.uint32
        np.testing.assert_array_equal(found.data, labels)


@RANKS
def test_a_file_without_cells_gives_a_file_without_cells(rank, tmp_path):
    shape = (1, *SHAPES[2]) if rank == 2 else SHAPES[3]
    noise = np.random.default_rng(0).normal(0, 0.2, (*shape, 1 + rank)).astype(np.float32)
    noise[..., 0] = np.abs(noise[..., 0]).clip(0, 0.4)
    write_volume(tmp_path / 'in.tif', Volume(noise, (20.0, 20.0, 20.0), axes='zyxc'))
    output = tmp_path / 'out.tif'
    assert reconstruct_file([tmp_path / 'in.tif'], output, cell_radius=RADIUS) == 0
    found = read_volume(output)
    assert found.shape == shape
    assert not found.data.any()


@KINDS
@pytest.mark.parametrize(
    ('noise', 'outside'), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.1), (0.3, 0.3)], ids=str
)
def test_sparse_cells_are_found_where_the_published_way_loses_them(kind, noise, outside):
    """Background voxels move too, as published: where they end joins the cells, or is one."""
    places = ((5, 8, 9), (12, 10, 37), (9, 24, 22), (5, 35, 7), (12, 34, 38))
    labels = paint(3, *((place, 5) for place in places))
    assert (labels > 0).mean() < 0.25
    options = {'kind': kind, 'noise': noise, 'outside': outside}
    ours = find(labels, **options)
    theirs = find(labels, recipe=PUBLISHED, **options)
    assert_all_found(ours, labels)
    scores = [
        (matched_dice(found, labels).mean, average_precision(found, labels).mean)
        for found in (ours, theirs)
    ]
    assert scores[0][0] > scores[1][0]
    assert scores[0][1] > scores[1][1]


@pytest.mark.parametrize('name', ['base', 'no_smoothing_no_normalise', 'inverted', 'strict'])
def test_default_is_no_worse_than_any_published_run_of_touching_cells(name, touching):
    found, truth, published = touching
    theirs = published[f'instances_{name}']
    assert matched_dice(found, truth).mean > matched_dice(theirs, truth).mean
    ours, others = (average_precision(labels, truth).ap for labels in (found, theirs))
    assert (ours >= others).all()


@pytest.fixture(scope='module')
def touching():
    arrays, foreground, flows = read_published()
    found = np.asarray(reconstruct(foreground, flows, cell_radius=8))
    return found, arrays['true_labels'], arrays
