"""Objects within others: distances in balls are known."""

from __future__ import annotations

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.measure import within

SIZE = (20.0, 10.0, 10.0)


def _ball(centre_nm: tuple[float, float, float], radius_nm: float) -> np.ndarray:
    z, y, x = (np.arange(n) * s for n, s in zip((24, 44, 90), SIZE, strict=True))
    grid = np.stack(np.meshgrid(z, y, x, indexing='ij'), -1)
    return np.linalg.norm(grid - centre_nm, axis=-1) <= radius_nm


@pytest.fixture(name='scene', scope='module')
def _scene() -> tuple[np.ndarray, np.ndarray]:
    """Nuclei 3 and 7 with a nucleolus off the centre, one in the centre, and one outside of all."""
    nuclei = np.zeros((24, 44, 90), np.int32)
    nuclei[_ball((220, 210, 210), 180)] = 3
    nuclei[_ball((220, 210, 640), 150)] = 7
    nucleoli = np.zeros_like(nuclei)
    nucleoli[_ball((220, 210, 290), 40)] = 1
    nucleoli[_ball((220, 210, 640), 50)] = 2
    nucleoli[_ball((220, 400, 430), 25)] = 5
    return nucleoli, nuclei


def test_distances_and_volumes_in_balls(scene) -> None:
    nucleoli, nuclei = scene
    found = within(nucleoli, nuclei, voxel_size_nm=SIZE)
    objects, containers = found.objects, found.containers
    assert objects['label'].tolist() == [1, 2, 5]
    assert objects['inside'].tolist() == [3, 7, 0]
    assert objects['inside_percent'].tolist() == [100, 100, 0]
    assert objects['centre_distance_nm'][0] == pytest.approx(80, abs=1)
    assert objects['membrane_distance_nm'][0] == pytest.approx(180 - 80, abs=4)
    assert objects['proximity'][0] == pytest.approx(80 / 180, abs=0.02)
    assert objects['proximity'][1] < 0.01
    assert np.isnan(objects['proximity'][2])
    assert containers['label'].tolist() == [3, 7]
    assert containers['n_objects'].tolist() == [1, 1]
    shares = (40 / 180) ** 3, (50 / 150) ** 3
    np.testing.assert_allclose(containers['objects_percent'] / 100, shares, rtol=0.08)
    volumes = 4 / 3 * np.pi * np.array([0.18, 0.15]) ** 3
    np.testing.assert_allclose(containers['volume_um3'], volumes, rtol=0.02)


def test_labels_of_containers_may_be_hollow(scene) -> None:
    nucleoli, nuclei = scene
    whole = within(nucleoli, nuclei, voxel_size_nm=SIZE)
    hollow = within(nucleoli, np.where(nucleoli > 0, 0, nuclei), voxel_size_nm=SIZE)
    for name, column in whole.objects.items():
        np.testing.assert_array_equal(hollow.objects[name], column)
    for name, column in whole.containers.items():
        np.testing.assert_array_equal(hollow.containers[name], column)


def test_an_object_belongs_where_most_of_it_is() -> None:
    cells = np.zeros((6, 6, 12), np.uint8)
    cells[:, :, :7], cells[:, :, 7:] = 1, 2
    organelles = np.zeros_like(cells)
    organelles[2:4, 2:4, 4:10] = 9
    found = within(organelles, cells, voxel_size_nm=(1, 1, 1))
    assert found.objects['inside'].tolist() == [1]
    assert found.objects['inside_percent'].tolist() == [50]
    assert found.containers['n_objects'].tolist() == [1, 0]
    np.testing.assert_allclose(found.containers['objects_volume_um3'], [12e-9, 12e-9])
    nothing = within(np.zeros_like(cells), cells, voxel_size_nm=(1, 1, 1))
    assert len(nothing.objects['label']) == 0
    assert nothing.containers['objects_percent'].tolist() == [0, 0]


def test_bad_input() -> None:
    with pytest.raises(InputError, match='containers'):
        within(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), voxel_size_nm=SIZE)
