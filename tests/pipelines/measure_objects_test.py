"""Tables of measures from files: what is in them, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.io import write_volume
from sxt_jax.measure import Texture
from sxt_jax.pipelines.labelled_objects import Choice
from sxt_jax.pipelines.measure_objects import (
    Extras,
    measure_files,
    parse_texture,
    summarise_measures,
)
from tests.measure.shapes import ellipsoid

SIZE = (9.8, 9.8, 9.8)
NAMES = {0: 'background', 1: 'cytoplasm', 2: 'filopodia'}


def _labels() -> np.ndarray:
    """Two ellipsoids and a speck of class 2 inside, one cut by the border; a block of class 1."""
    labels = np.zeros((24, 40, 90), np.uint8)
    body = ellipsoid((5, 9, 6))
    body = body[np.ix_(*(body.any(axis=tuple({0, 1, 2} - {a})) for a in range(3)))]
    for start in ((3, 4, 5), (9, 12, 30), (2, 21, 60)):
        labels[tuple(slice(s, s + n) for s, n in zip(start, body.shape, strict=True))][body] = 2
    labels[12, 35, 80] = 2
    labels[:, 2:4, 80:] = 1
    return labels


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('measures')
    labels = _labels()
    labels[:, 39] = 0
    (folder / 'labels').mkdir()
    (folder / 'images').mkdir()
    for name, data in (('a', labels), ('b', np.where(labels == 2, 2, 0).astype(np.uint8))):
        write_volume(folder / 'labels' / f'{name}.h5', Volume(data, SIZE, class_names=NAMES))
        image = (data * 0.15).astype(np.float32)
        write_volume(folder / 'images' / f'{name}.tif', Volume(image, SIZE))
    return folder


@pytest.fixture(name='no_figure')
def _no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('sxt_jax.pipelines.measure_objects.save_figure', lambda *_: None)


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_filopodia_of_a_folder(folder: Path, tmp_path: Path) -> None:
    choice = Choice(class_='filopodia', min_size=5)
    output = tmp_path / 'f.csv'
    made = measure_files(folder / 'labels', output, kind='filopodia', choice=choice)
    rows = _rows(output)
    assert [(row['name'], row['label']) for row in rows] == [
        (name, str(i)) for name in ('a.h5', 'b.h5') for i in (1, 2, 3)
    ]
    for row in rows:
        assert float(row['major_axis_nm']) == pytest.approx(18 * 9.8, rel=0.03)
        volume = 4 / 3 * np.pi * 5 * 9 * 6 * 9.8**3 * 1e-9
        assert float(row['volume_um3']) == pytest.approx(volume, rel=0.03)
    parts = _rows(made.files['sections'])
    assert len(parts) == sum(int(row['n_sections']) for row in rows)
    mean = np.mean(
        [float(p['perimeter_nm']) for p in parts if (p['name'], p['label']) == ('b.h5', '2')]
    )
    assert float(rows[4]['section_perimeter_nm']) == pytest.approx(mean)
    assert made.files['figure'].read_bytes()[:4] == b'\x89PNG'
    assert any(
        '3-D first axis' in line and ' nm' in line for line in summarise_measures(made.table)
    )


def test_objects_cut_by_the_border_are_counted(folder: Path, tmp_path: Path) -> None:
    labels = _labels()
    labels[:, 39] = 0
    labels[0:3, 36:38, 3:6] = 2
    write_volume(tmp_path / 'cut.h5', Volume(labels, SIZE))
    choice = Choice(class_='2', min_size=2)
    made = measure_files(tmp_path / 'cut.h5', tmp_path / 'f.csv', kind='filopodia', choice=choice)
    assert (len(made.table['name']), made.n_cut) == (3, 1)


@pytest.mark.usefixtures('no_figure')
def test_objects_and_classes_with_absorption(folder: Path, tmp_path: Path) -> None:
    options = {'image': folder / 'images'}
    made = measure_files(
        folder / 'labels', tmp_path / 'o.json', kind='objects', choice=Choice(class_='2'), **options
    )
    rows = json.loads((tmp_path / 'o.json').read_text())
    assert len(rows) == 8
    assert [row['n_voxels'] == 1 for row in rows[:4]].count(True) == 1
    np.testing.assert_allclose(made.table['mean_lac_per_um'], 0.3, rtol=1e-6)
    labels = folder / 'labels' / 'a.h5'
    measure_files(labels, tmp_path / 'c.csv', kind='classes', image=folder / 'images' / 'a.tif')
    classes = _rows(tmp_path / 'c.csv')
    assert [row['class'] for row in classes] == ['cytoplasm', 'filopodia']
    assert float(classes[0]['mean_lac_per_um']) == pytest.approx(0.15)
    assert int(classes[1]['n_voxels']) == sum(row['n_voxels'] for row in rows[:4])
    (one,) = measure_files(
        labels, tmp_path / 'd.csv', kind='classes', choice=Choice(class_='filopodia')
    ).table['class']
    assert one == 'filopodia'


@pytest.mark.usefixtures('no_figure')
def test_small_objects_are_left_out_of_any_kind(folder: Path, tmp_path: Path) -> None:
    source, choice = folder / 'labels' / 'b.h5', Choice(min_size=5)
    made = measure_files(source, tmp_path / 'o.csv', kind='objects', choice=choice)
    assert (made.table['n_voxels'] >= 5).all()
    assert len(made.table['name']) == 3


def test_textures_and_what_contains_objects(folder: Path, tmp_path: Path) -> None:
    labels = _labels()
    image = np.random.default_rng(0).normal(100, 20, labels.shape).astype(np.float32)
    write_volume(tmp_path / 'em.tif', Volume(image, SIZE))
    cells = np.zeros_like(labels)
    cells[:, :, :50], cells[:, :, 50:75] = 3, 5
    write_volume(tmp_path / 'cells.tif', Volume(cells, SIZE))
    write_volume(tmp_path / 'labels.h5', Volume(labels, SIZE, class_names=NAMES))
    extras = Extras(Texture(8, largest_ball=2), gray=True, inside=tmp_path / 'cells.tif')
    made = measure_files(
        tmp_path / 'labels.h5', tmp_path / 'o.csv', kind='objects', image=tmp_path / 'em.tif',
        choice=Choice(class_='filopodia', min_size=2), extras=extras,
    )  # fmt: skip
    rows = _rows(tmp_path / 'o.csv')
    assert sorted(row['inside'] for row in rows) == ['3', '3', '5']
    for row in rows:
        assert float(row['mean_gray']) == pytest.approx(100, abs=5)
        assert float(row['glcm_contrast']) > 3
        assert 0 < float(row['proximity']) < 1
        assert -20 < float(row['spectrum_mean_nm']) < 20
        assert row['fenestrated_percent'] == '0.0'
    containers = _rows(made.files['containers'])
    assert [(row['label'], row['n_objects']) for row in containers] == [('3', '2'), ('5', '1')]
    total = sum(float(row['objects_volume_um3']) for row in containers)
    assert total == pytest.approx(sum(float(row['volume_um3']) for row in rows))
    assert made.files['figure'].read_bytes()[:4] == b'\x89PNG'


@pytest.mark.usefixtures('no_figure')
def test_parts_of_a_class_contain_objects(folder: Path, tmp_path: Path) -> None:
    labels = folder / 'labels' / 'a.h5'
    made = measure_files(
        labels, tmp_path / 'p.csv', kind='objects', choice=Choice(class_='2'),
        extras=Extras(inside=labels, inside_class='cytoplasm'),
    )  # fmt: skip
    assert made.table['inside'].tolist() == [0, 0, 0, 0]
    assert len(_rows(made.files['containers'])) == 1


def test_what_is_wrong_is_told_and_nothing_written(folder: Path, tmp_path: Path) -> None:
    write_volume(tmp_path / 'full.h5', Volume(np.ones((3, 4, 5), np.uint8), SIZE))
    write_volume(tmp_path / 'bare.npy', Volume(np.ones((3, 4, 5), np.uint8)))
    write_volume(tmp_path / 'image.h5', Volume(np.ones((3, 4, 5), np.float32) / 3, SIZE))
    write_volume(tmp_path / 'empty.h5', Volume(np.zeros((3, 4, 5), np.uint8), SIZE))
    before = sorted(tmp_path.rglob('*'))
    labels = folder / 'labels' / 'a.h5'
    two, full = {'choice': Choice(class_='2')}, tmp_path / 'full.h5'
    cases = (
        (labels, 'f.csv', {'kind': 'filopods'}, 'one of filopodia, objects, classes'),
        (labels, 'f.csv', {'kind': 'filopodia'}, 'as --class, or --instances'),
        (labels, 'f.txt', {'kind': 'filopodia', **two}, 'f.txt: not the name of a table'),
        (labels, 'f.csv', {'kind': 'filopodia', 'image': full, **two}, '--image: given'),
        (labels, 'f.csv', {'kind': 'objects', 'image': full, **two}, 'full.h5: shape'),
        (labels, 'f.csv', {'kind': 'classes', 'choice': Choice(erode=1)}, 'only --class'),
        (full, 'f.csv', {'kind': 'filopodia'}, 'all 1 objects touch the border'),
        (tmp_path / 'bare.npy', 'f.csv', {'kind': 'classes'}, 'no voxel size'),
        (tmp_path / 'bare.npy', 'f.csv', {'kind': 'objects'}, 'no voxel size'),
        (tmp_path / 'image.h5', 'f.csv', {'kind': 'filopodia'}, 'whole numbers'),
        (tmp_path / 'empty.h5', 'f.csv', {'kind': 'classes'}, 'all are 0'),
        (tmp_path / 'none.h5', 'f.csv', {'kind': 'objects'}, 'none.h5: does not exist'),
        (labels, 'f.csv', {'kind': 'objects', 'extras': Extras(Texture()), **two}, 'no --image'),
        (labels, 'f.csv', {'kind': 'classes', 'extras': Extras(inside=full)}, '--inside: given'),
        (labels, 'f.csv', {'kind': 'objects', 'extras': Extras(inside=full), **two}, 'full.h5: sh'),
        (labels, 'f.csv', {'kind': 'objects', 'extras': Extras(inside_class='a')}, 'no --inside'),
    )
    for source, name, options, told in cases:
        with pytest.raises(InputError, match=told):
            measure_files(source, tmp_path / name, **options)
    assert sorted(tmp_path.rglob('*')) == before
    assert parse_texture(['1', '2.5'], 8, 3) == Texture(8, (1, 2.5), largest_ball=3)
    with pytest.raises(InputError, match='two numbers'):
        parse_texture(['1'], 8, 3)
