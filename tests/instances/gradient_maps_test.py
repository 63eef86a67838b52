"""Gradient maps: published numbers, a float64 oracle, known answers and invariances."""

from __future__ import annotations

import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.instances import heat, labels_to_flows
from sxt_jax.instances.cells import centres, find_cells

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'cellpose_flows.npz'
KINDS = ['heat', 'tanh', 'span']


def _shifted(image: np.ndarray, offset: tuple[int, ...]) -> np.ndarray:
    """image[i + offset], 0 outside."""
    padded = np.pad(image, 1)
    window = (slice(1 + d, n + 1 + d) for d, n in zip(offset, image.shape, strict=True))
    return padded[tuple(window)]


def _heat_oracle(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flows in float64 by the published iteration over the whole image, and where they count.

    Where differences cancel, what is left is rounding, whose direction means nothing.
    """
    cells, rank = find_cells(labels), labels.ndim
    offsets = itertools.product((-1, 0, 1), repeat=rank)
    offsets = [o for o in offsets if rank == 2 or sum(map(abs, o)) < 2]
    same = [(_shifted(labels, o) == labels) & (labels > 0) for o in offsets]
    spread = np.zeros(labels.shape)
    for _ in range({2: 2, 3: 6}[rank] * (cells.extent + 1).sum(1).max()):
        spread[tuple(centres(cells).T)] += 1
        joined = zip(offsets, same, strict=True)
        spread = sum(_shifted(spread, o) * s for o, s in joined) / len(offsets)
    axes = np.eye(rank, dtype=int)
    flows = np.stack([_shifted(spread, a) - _shifted(spread, -a) for a in axes], axis=-1)
    norm = np.linalg.norm(flows, axis=-1)
    around = sum(_shifted(spread, o) for a in axes for o in (a, -a))
    flows = flows / (norm[..., None] + 1e-60) * (labels > 0)[..., None]
    return flows, (norm > 1e-4 * around) | (around == 0) | (labels == 0)


def _ball(shape: tuple[int, ...], centre: tuple[int, ...], radius: float) -> np.ndarray:
    offset = np.indices(shape) - np.reshape(centre, (-1, *[1] * len(shape)))
    return (offset**2).sum(0) < radius**2


def _three_cells() -> np.ndarray:
    """Two balls that touch, and a block at the border that touches one: no ties of centres."""
    labels = np.zeros((14, 20, 22), np.int32)
    labels[_ball(labels.shape, (6, 6, 6), 5.2)] = 1
    labels[_ball(labels.shape, (6, 6, 15), 4.2)] = 2
    labels[9:, 11:, 2:21] = 3
    return labels


@pytest.mark.parametrize(
    ('rank', 'voxels'),
    [('2d', ...), ('3d', (slice(0, None, 2), slice(1, None, 2), slice(0, None, 3)))],
)
def test_heat_equals_the_published(rank, voxels):
    with np.load(FIXTURE) as file:
        flows = np.asarray(labels_to_flows(file[f'{rank}/labels']))
        expected = file[f'{rank}/heat']
    error = np.linalg.norm(flows[voxels] - expected, axis=-1)
    assert error.max() < 1e-3
    assert np.quantile(error, 0.99) < 1e-5


def test_tanh_equals_the_published_with_the_other_sign():
    with np.load(FIXTURE) as file:
        flows = np.asarray(labels_to_flows(file['3d/labels'], kind='tanh'))
        expected = -file['3d/tanh_away']
    np.testing.assert_allclose(flows[::4, 1::4, ::5], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('case', ['random', 'pieces', 'winding'])
@pytest.mark.parametrize('shape', [(24, 30), (10, 12, 14)])
def test_heat_equals_float64(case, shape):
    rng = np.random.default_rng(0)
    if case == 'random':  # every cell in many pieces, all over the image
        labels = rng.integers(0, 6, shape)
    elif case == 'pieces':  # compact cells, each with a stray voxel
        labels = np.arange(1, 2 ** len(shape) + 1).reshape((2,) * len(shape))
        for axis, n in enumerate(shape):
            labels = np.repeat(labels, n // 2, axis=axis)
        labels.ravel()[rng.permutation(labels.size)[: labels.max()]] = np.arange(labels.max()) + 1
    else:
        labels = ndimage.label(rng.random(shape) < {2: 0.55, 3: 0.3}[len(shape)])[0]
    expected, counts = _heat_oracle(labels)
    error = np.linalg.norm(np.asarray(labels_to_flows(labels)) - expected, axis=-1)
    assert counts.mean() > 0.9
    assert error[counts].max() < 2e-3


def test_heat_far_from_the_centre_keeps_its_direction():
    # A path one voxel wide: heat falls to a sixth with every voxel, below what float32 holds.
    labels = np.zeros((3, 3, 130), np.int32)
    labels[1, 1] = 1
    x = np.asarray(labels_to_flows(labels))[1, 1, :, 2]
    centre = centres(find_cells(labels))[0, 2]
    np.testing.assert_allclose(x[5:centre], 1, rtol=1e-6)
    np.testing.assert_allclose(x[centre + 1 : -5], -1, rtol=1e-6)


def test_paths_through_a_u_end_in_its_centre():
    with np.load(FIXTURE) as file:
        labels, number = file['2d/labels'], int(file['2d/u_shaped'])
        centre = file['2d/centres'][number - 1]
    u = labels == number
    assert not u[tuple(np.rint(np.argwhere(u).mean(0)).astype(int))]
    flows = np.asarray(labels_to_flows(np.where(u, labels, 0)))
    ends = np.argwhere(u).astype(float)
    for _ in range(100):
        ends += flows[tuple(np.rint(ends).astype(int).T)]
    assert np.abs(ends - centre).max() < 2


def test_packing_changes_nothing(monkeypatch):
    labels = ndimage.label(np.random.default_rng(1).random((16, 40, 40)) < 0.3)[0]
    expected = labels_to_flows(labels)
    monkeypatch.setattr(heat, 'CPU_PACK', 2**11)
    cells = find_cells(labels)
    assert len(list(heat._packs(cells.extent, heat.CPU_PACK))) > 10
    np.testing.assert_allclose(labels_to_flows(labels), expected, rtol=0, atol=1e-4)


def test_heat_knows_nothing_of_cells_it_does_not_touch():
    labels = _three_cells()
    alone, together = (np.asarray(labels_to_flows(x)) for x in (labels * (labels == 3), labels))
    foreign = np.zeros(labels.shape, bool)
    for axis, step in itertools.product(np.eye(3, dtype=int), (1, -1)):
        neighbour = _shifted(labels, tuple(step * axis))
        foreign |= (neighbour > 0) & (neighbour != labels)
    inside = (labels == 3) & ~foreign
    assert 0 < inside.sum() < (labels == 3).sum()
    np.testing.assert_array_equal(together[inside], alone[inside])


@pytest.mark.parametrize('kind', KINDS)
def test_flows_of_a_ball_point_to_its_centre(kind):
    labels = _ball((15, 17, 16), (7, 8, 6), 6.5).astype(np.uint16) * 900
    flows = labels_to_flows(labels, kind=kind)
    assert isinstance(flows, jax.Array)
    assert flows.dtype == np.float32
    assert flows.shape == (15, 17, 16, 3)
    flows = np.asarray(flows)
    assert not flows[labels == 0].any()
    assert not flows[7, 8, 6].any()
    to_centre = np.moveaxis(
        np.array([7, 8, 6]).reshape(3, 1, 1, 1) - np.indices(labels.shape), 0, -1
    )
    away = (labels > 0) & to_centre.any(-1)
    cosine = (flows * to_centre).sum(-1)[away]
    cosine /= np.linalg.norm(flows[away], axis=-1) * np.linalg.norm(to_centre[away], axis=-1)
    assert cosine.min() > 0.9
    if kind == 'heat':
        np.testing.assert_allclose(np.linalg.norm(flows[away], axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_names_of_cells_do_not_matter(kind):
    labels = _three_cells()
    expected = labels_to_flows(labels, kind=kind)
    for ids in ([0, 5, 3, 1], [0, 2**40, 9, 70_000]):
        renamed = np.array(ids)[labels]
        np.testing.assert_allclose(labels_to_flows(renamed, kind=kind), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_axes_are_alike(kind):
    labels = _three_cells()
    flows = np.asarray(labels_to_flows(labels, kind=kind))
    order = (2, 0, 1)
    turned = np.asarray(labels_to_flows(labels.transpose(order), kind=kind))
    np.testing.assert_allclose(turned, flows.transpose(*order, 3)[..., order], rtol=0, atol=2e-4)
    flipped = np.asarray(labels_to_flows(labels[:, ::-1], kind=kind))
    np.testing.assert_allclose(flipped, flows[:, ::-1] * [1, -1, 1], rtol=0, atol=2e-4)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('shape', [(4, 5), (3, 4, 5), (0, 5), (3, 4, 0)])
def test_without_cells_all_is_zero(kind, shape):
    flows = labels_to_flows(np.zeros(shape, int), kind=kind)
    assert flows.shape == (*shape, len(shape))
    assert not np.asarray(flows).any()


@pytest.mark.parametrize('kind', KINDS)
def test_a_cell_of_one_voxel_has_no_direction(kind):
    labels = np.zeros((3, 4, 5), int)
    labels[0, 3, 4] = labels[2, 1, 1] = 1  # a corner, and a piece far from it
    labels[2, 3, 0] = 2
    flows = np.asarray(labels_to_flows(labels, kind=kind))
    assert np.isfinite(flows).all()
    assert not flows[2, 3, 0].any()
    if kind == 'heat':
        assert not flows.any()


def test_more_cells_than_16_bits_count():
    labels = np.arange(1, 42 * 41 * 41 + 1).reshape(42, 41, 41)
    assert labels.max() > 70_000
    flows = np.asarray(labels_to_flows(labels))
    # All are equally warm: only what is missing outside the image makes a difference.
    assert not flows[1:-1, 1:-1, 1:-1].any()
    np.testing.assert_allclose(flows[0, 1:-1, 1:-1], np.broadcast_to([1, 0, 0], (39, 39, 3)))
    np.testing.assert_allclose(flows[1:-1, -1, 1:-1], np.broadcast_to([0, -1, 0], (40, 39, 3)))
    assert not np.asarray(labels_to_flows(labels, kind='tanh')).any()


def test_tanh_with_larger_voxels_along_one_axis():
    labels = _three_cells()
    expected = labels_to_flows(labels, kind='tanh')
    finer = np.repeat(labels, 3, axis=0)
    flows = np.asarray(labels_to_flows(finer, kind='tanh', width=(15, 5, 5)))
    np.testing.assert_allclose(flows[1::3], expected, rtol=0, atol=1e-6)


def test_span_reaches_from_face_to_face():
    labels = np.zeros((30, 30), int)
    labels[2:23, 3:10] = 4  # 21 voxels: the faces are 10.5 from the centroid
    labels[2, 10:25] = 4  # centroid far from the middle of the box along x
    flows = np.asarray(labels_to_flows(labels, kind='span'))
    inside = labels == 4
    y, x = np.nonzero(inside)
    for axis, index in enumerate((y, x)):
        faces, centroid = (index.min() - 0.5, index.max() + 0.5), index.mean()
        u = np.interp(index, [faces[0], centroid, faces[1]], [1, 0, -1])
        np.testing.assert_allclose(flows[inside][:, axis], np.tanh(2 * u), rtol=0, atol=1e-6)


def test_span_is_tanh_for_cells_that_reach_10_voxels():
    labels = np.zeros((26, 24), int)
    labels[3:23, 2:22] = 1
    span, tanh = (labels_to_flows(labels, kind=kind) for kind in ('span', 'tanh'))
    np.testing.assert_allclose(span, tanh, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kind': 'cold'}, "'cold'"),
        ({'kind': 'tanh', 'width': 0}, 'width'),
        ({'kind': 'tanh', 'width': (5, 5, 5)}, '2 of them'),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        labels_to_flows(np.ones((3, 3), int), **options)
