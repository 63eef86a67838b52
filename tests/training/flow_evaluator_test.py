"""Scores of foreground, flows and cells of whole volumes, of networks that draw what is asked."""

import functools

import numpy as np
import pytest

from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example
from sxt_jax.data.targets import with_flows
from sxt_jax.inference import predict_slabs
from sxt_jax.training import flow_evaluator
from sxt_jax.training.flow_evaluator import flow_scores, typical_radius
from tests.training.cells import tanh_flows

TILING = {'tile': (8, 8, 8), 'overlap': (0, 0, 0), 'blend': 'constant', 'batch_size': 8}
RADIUS = {'cell_radius': 6.0}  # one compiled program for most tests
Z, NONE = (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)


def as_drawn(variables, tiles):
    """What is drawn in the image's channels."""
    return {'foreground': tiles[..., :1], 'flows': tiles[..., 1:]}


def score(*examples, **options):
    predict = functools.partial(predict_slabs, as_drawn, None, device_mesh=None, **TILING)
    return flow_scores(predict, examples, **options)


def drawn(labels, true, foreground, predicted):
    image = np.stack([foreground, *np.moveaxis(np.asarray(predicted), -1, 0)], -1)
    shape = (1, 1, len(labels))
    ids = np.asarray(labels, np.int32).reshape(shape)
    return Example(
        'e',
        image.reshape(*shape, 4).astype(np.float32),
        np.minimum(ids, 1).astype(np.int16),
        flows=np.asarray(true, np.float16).reshape(*shape, 3),
        instances=ids,
    )


def cells(n=5, shape=(16, 24, 24)):
    """Touching cells, the nearest to each of some points in a box, with large ids."""
    rng = np.random.default_rng(3)
    centres = np.array([4, 6, 6]) + np.array([9, 12, 12]) * np.argwhere(np.ones((2, 2, 2)))[:n]
    centres = centres + rng.uniform(-1, 1, centres.shape)
    place = np.stack(np.indices(shape), -1)[..., None, :]
    ids = 70_000 + ((place - centres) ** 2).sum(-1).argmin(-1).astype(np.int32)
    ids[:, :1] = ids[:, :, -1:] = 0
    return ids


def predicted(ids, foreground, flows, **fields):
    """An example of these ids, and of this prediction."""
    image = np.concatenate([np.asarray(foreground, np.float32)[..., None], flows], -1)
    example = Example('e', image.astype(np.float32), ids, **fields)
    return with_flows(example, tanh_flows)


def test_flows_count_where_they_are_right():
    half = (0.6, 0.0, 0.0)
    found = score(
        drawn(
            [1, 1, 1, 0, 0, IGNORE_INDEX],
            [Z, Z, Z, NONE, NONE, NONE],
            [0.9, 0.8, 0.4, 0.7, 0.1, 0.9],
            [half, NONE, Z, Z, NONE, Z],
        )
    )
    # 3 true, 3 predicted; two of them in cells, of which one has the right flow.
    expected = {
        'dice/foreground': 4 / 6,
        'dice/flows': 2 / 6,
        'validation/foreground_loss': (0.1 + 0.2 + 0.6 + 0.7 + 0.1) / 5,
        'validation/flow_loss': (0.16 / 3 + 1 / 3 + 0.01 / 3) / 3.02,
        # The one cell of three voxels is found as two; the voxel beside it is another cell.
        'dice': 4 / 5,
        'ap50': 1 / 2,
    }
    assert found == pytest.approx(expected, rel=1e-3)


def test_voxels_are_scored_in_volumes_that_have_cells_and_cells_one_by_one():
    cell, nothing, some, none = [1, *[0] * 5], [0] * 6, [Z, *[NONE] * 5], [NONE] * 6
    right, empty = drawn(cell, some, cell, some), drawn(nothing, none, nothing, none)
    missed = drawn(cell, some, nothing, none)
    # Of three voxels, as above: one compiled program.
    radius = typical_radius([drawn([1, 1, 1, 0, 0, 0], none, nothing, none)])
    both = score(right, empty, cell_radius=radius)
    assert both['dice'] == both['dice/flows'] == 1
    found = score(right, right, missed, cell_radius=radius)
    assert found['dice'] == found['ap50'] == found['dice/flows'] == pytest.approx(2 / 3)
    assert set(score(empty)) == {'validation/foreground_loss', 'validation/flow_loss'}
    assert score() == {}


def test_the_true_flows_give_the_true_cells():
    """On a volume of many tiles."""
    ids = cells()
    found = score(predicted(ids, ids > 0, tanh_flows(ids)), **RADIUS)
    assert found['dice'] > 0.99
    assert found['ap50'] == found['dice/foreground'] == found['dice/flows'] == 1
    assert found['validation/flow_loss'] == pytest.approx(0, abs=1e-6)


def test_every_true_cell_counts_the_same():
    ids = cells()
    all_but_one = score(predicted(ids, ids > 70_000, tanh_flows(ids)), **RADIUS)
    assert all_but_one['dice'] == pytest.approx(4 / 5, abs=0.01)
    assert all_but_one['ap50'] == 4 / 5
    one_volume = predicted(np.where(ids > 70_001, 0, ids), ids > 0, tanh_flows(ids))
    both = score(one_volume, predicted(ids, ids > 70_000, tanh_flows(ids)), **RADIUS)
    assert both['dice'] == pytest.approx(6 / 7, abs=0.01)
    assert both['ap50'] == (2 + 4) / (5 + 5)  # three cells are no true ones, one is missed


@pytest.mark.parametrize('kind', ['nan', 'nothing', 'no flows', 'noise'])
def test_nonsense_has_a_score(kind):
    ids = cells()
    rng = np.random.default_rng(0)
    flows = {
        'nan': np.full((*ids.shape, 3), np.nan),
        'noise': rng.uniform(-1, 1, (*ids.shape, 3)),
    }.get(kind, np.zeros((*ids.shape, 3)))
    foreground = np.full(ids.shape, np.nan if kind == 'nan' else float(kind != 'nothing'))
    found = score(predicted(ids, foreground, flows), **RADIUS)
    assert 0 <= found['dice'] < 0.5
    assert found['ap50'] == 0
    assert (found['dice'] == 0) == (kind in ('nan', 'nothing'))


def test_what_is_predicted_where_nobody_labelled_does_not_count():
    ids = cells()
    labelled = ids.copy()
    labelled[:, :, 12:] = IGNORE_INDEX
    found = score(predicted(labelled, ids > 0, tanh_flows(ids)), **RADIUS)
    assert found['dice'] > 0.99
    assert found['ap50'] == 1


def boxes():
    """Eight cells that end where the volume is halved, into parts of the shape of `cells`."""
    z, y, x = np.indices((32, 24, 24))
    return (1 + 4 * (z >= 16) + 2 * (y >= 12) + (x >= 12)).astype(np.int32)


def test_volumes_too_large_for_the_memory_are_scored_in_parts(monkeypatch):
    ids = boxes()
    monkeypatch.setattr(flow_evaluator, '_BYTES_PER_VOXEL', 1000)
    monkeypatch.setattr(flow_evaluator, 'host_bytes', lambda: 2 * 1000 * 17.5 * 24 * 24)
    asked, real = [], flow_evaluator.reconstruct_to_host

    def watched(foreground, *args, **options):
        asked.append(foreground.shape)
        return real(foreground, *args, **options)

    monkeypatch.setattr(flow_evaluator, 'reconstruct_to_host', watched)
    found = score(predicted(ids, ids != 8, tanh_flows(ids)), **RADIUS)
    assert asked == [(16, 24, 24)] * 2
    assert (found['dice'], found['ap50']) == (7 / 8, 7 / 8)


def test_without_true_cells_there_is_no_score_of_cells():
    ids = cells()
    nothing = predicted(np.zeros_like(ids), ids > 0, tanh_flows(ids))
    assert score(**RADIUS) == {}
    found = score(nothing, **RADIUS)
    assert 'dice' not in found
    assert 'validation/flow_loss' in found


def test_the_radius_is_that_of_a_ball_with_the_median_volume():
    ids = np.zeros((12, 20, 20), np.int32)
    ids[0, 0, 0], ids[2:6, 2:12, 2:12], ids[8:, :18, :], ids[7] = 5, 70_000, 3, IGNORE_INDEX
    cells_of = functools.partial(Example, 'e', ids, ids)  # 1, 400 and 1440 voxels
    ball = np.cbrt(400 * 3 / (4 * np.pi))
    assert typical_radius([cells_of(instances=ids)]) == pytest.approx(ball)
    thick = cells_of((300.0, 100.0, 100.0), instances=ids)
    assert typical_radius([thick]) == pytest.approx(np.cbrt(3) * ball)
    disk = Example('e', ids, ids[2:3], (500.0, 200.0, 100.0), instances=ids[2:3])
    assert typical_radius([disk]) == pytest.approx(np.sqrt(2 * 100 / np.pi))
    assert typical_radius([cells_of(instances=np.zeros_like(ids))]) is None
    assert typical_radius([]) is None
