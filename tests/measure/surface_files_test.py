"""Surface files, read back by small parsers written from the formats' descriptions."""

import struct
from pathlib import Path

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.measure import Surface, surface_files, surface_mesh, write_surface
from sxt_jax.measure.surface_files import write_surfaces
from tests.measure.shapes import ellipsoid

SIZE = (40.0, 20.0, 10.0)


@pytest.fixture(name='mask')
def _mask() -> np.ndarray:
    return np.pad(ellipsoid((300, 200, 100), voxel_size=SIZE), ((3, 1), (2, 2), (0, 5)))


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    lines = [line.split() for line in path.read_text().splitlines()]
    vertices = [[float(v) for v in line[1:]] for line in lines if line[0] == 'v']
    faces = [[int(v) for v in line[1:]] for line in lines if line[0] == 'f']
    return np.array(vertices), np.array(faces) - 1


def read_stl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = path.read_bytes()
    (n,) = struct.unpack_from('<I', data, 80)
    assert len(data) == 84 + 50 * n
    corners = [struct.unpack_from('<9f', data, 84 + 50 * i + 12) for i in range(n)]
    points = np.array(corners).reshape(-1, 3)
    vertices, index = np.unique(points, axis=0, return_inverse=True)
    return vertices, index.reshape(-1, 3)


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    header, _, body = path.read_bytes().partition(b'end_header\n')
    words = [line.split() for line in header.decode().splitlines()]
    assert ['format', 'binary_little_endian', '1.0'] in words
    counts = {line[1]: int(line[2]) for line in words if line[0] == 'element'}
    n, faces = counts['vertex'], []
    size = 12 + 3 * (['property', 'uchar', 'red'] in words)  # bytes a vertex
    rows = np.frombuffer(body, np.uint8, n * size).reshape(n, size)
    for i in range(counts['face']):
        k, *face = struct.unpack_from('<B3i', body, n * size + 13 * i)
        assert k == 3
        faces.append(face)
    vertices = np.ascontiguousarray(rows[:, :12]).view('<f4').astype(float)
    return vertices, np.array(faces)


def read_ply_colours(path: Path) -> np.ndarray:
    header, _, body = path.read_bytes().partition(b'end_header\n')
    n = next(
        int(w[2]) for w in map(bytes.split, header.splitlines()) if w[:2] == [b'element', b'vertex']
    )
    return np.frombuffer(body, np.uint8, 15 * n).reshape(n, 15)[:, 12:]


READERS = {'.obj': read_obj, '.stl': read_stl, '.ply': read_ply}


@pytest.mark.parametrize('suffix', READERS)
def test_file_holds_a_closed_outward_surface_in_xyz(
    tmp_path: Path, mask: np.ndarray, suffix: str
) -> None:
    path = tmp_path / f'cell{suffix}'
    surface = surface_mesh(mask, voxel_size_nm=SIZE)
    write_surface(path, surface)
    vertices, faces = READERS[suffix](path)
    assert len(faces) == len(surface.faces)

    _, counts = np.unique(
        np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1),
        axis=0,
        return_counts=True,
    )
    assert set(counts.tolist()) == {2}

    p, q, r = (vertices[faces[:, k]] for k in range(3))
    signed = np.einsum('ij,ij->', p, np.cross(q, r)) / 6
    assert signed == pytest.approx(4 / 3 * np.pi * 300 * 200 * 100, rel=0.03)
    extent = np.ptp(vertices, axis=0)
    np.testing.assert_allclose(extent, [200, 400, 600], rtol=0.08)  # x, y, z
    first = np.argwhere(mask).min(0) * SIZE
    np.testing.assert_allclose(vertices.min(0)[::-1], first, atol=40)


def test_stl_normals_agree_with_the_order_of_corners(tmp_path: Path, mask: np.ndarray) -> None:
    write_surface(tmp_path / 'cell.stl', surface_mesh(mask, voxel_size_nm=SIZE))
    data = (tmp_path / 'cell.stl').read_bytes()
    (n,) = struct.unpack_from('<I', data, 80)
    facets = np.array([struct.unpack_from('<12f', data, 84 + 50 * i) for i in range(n)])
    normals, p, q, r = facets.reshape(n, 4, 3).transpose(1, 0, 2)
    cross = np.cross(q - p, r - p)
    length = np.linalg.norm(cross, axis=1)
    large = length > 1
    agree = np.einsum('ij,ij->i', normals, cross)[large] / length[large]
    assert agree.min() > 0.999


def test_refuses_other_suffixes_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    surface = Surface(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(InputError, match='obj'):
        write_surface(tmp_path / 'cell.vtk', surface)
    broken = Surface(np.zeros((3, 3)), np.array([[0, 1, 7]]))  # a vertex that is not there
    with pytest.raises(IndexError):
        write_surface(tmp_path / 'cell.stl', broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('suffix', READERS)
def test_several_surfaces_in_one_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with more rows than are written at a time."""
    monkeypatch.setattr(surface_files, '_CHUNK', 16)
    rng = np.random.default_rng(0)
    parts = []
    for n, m in ((40, 70), (5, 3)):
        vertices = rng.integers(-9000, 9000, (n, 3)).astype(np.float32)
        parts.append(Surface(vertices, rng.integers(0, n, (m, 3)).astype(np.int32)))
    path, colours = tmp_path / f'scene{suffix}', np.array([[1, 0.5, 0], [0, 0.2, 1]])
    write_surfaces(path, parts, names=['one', 'two'], colours=colours)
    vertices, faces = READERS[suffix](path)
    expected = np.concatenate([s.vertices_nm[s.faces][..., ::-1] for s in parts])
    np.testing.assert_array_equal(vertices[faces], expected)
    if suffix == '.ply':
        rgb = np.repeat([[255, 128, 0], [0, 51, 255]], [40, 5], axis=0)
        np.testing.assert_array_equal(read_ply_colours(path), rgb)
    if suffix == '.obj':
        lines = path.read_text().splitlines()
        assert [line for line in lines if line[0] not in 'vf#'] == ['g one', 'g two']
        assert lines.index('g two') == 1 + 1 + 40 + 70
