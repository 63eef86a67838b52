"""YAML files that tell what label values are."""

import pytest

from sxt_jax.core.errors import InputError
from sxt_jax.io import find_folder_file, find_material_file, read_material_file


def test_names_ignored_values_and_voxel_size(tmp_path):
    (tmp_path / 'a.yaml').write_text(
        'materials:\n  Lipid body: 1\n  nucleus: [2, 5]\nignore: 255\nvoxel_size_nm: [30, 20, 20.5]'
    )
    found = read_material_file(tmp_path / 'a.yaml')
    assert found.names == {1: 'Lipid body', 2: 'nucleus', 5: 'nucleus'}
    assert found.ignored == {255}
    assert found.voxel_size_nm == (30.0, 20.0, 20.5)
    (tmp_path / 'a.yaml').write_text('voxel_size_nm: 30')
    found = read_material_file(tmp_path / 'a.yaml')
    assert (found.names, found.ignored, found.voxel_size_nm) == (None, None, (30.0,) * 3)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('materials: {a: 1, b: 1}', 'value 1 is a and b'),
        ('materials: {a: 1, a: 2}', "'a' is given twice"),
        ('materials: {a: 1}\nmaterials: {b: 2}', 'given twice'),
        ('materials: {a: 1}\nignore: [1, 2]', 'value 1 is a and ignored'),
        ('materials: {a: one}', 'a: .one.; expected a label value'),
        ('materials: {a: []}', 'expected a label value'),
        ('materials: {a: true}', 'expected a label value'),
        ('materials: {a+b: 1}', "material 'a.b'; expected a name"),
        ('materials: {no: 1}', 'material False; expected a name'),
        ('materials: {rest: 1}', "material 'rest'"),
        ('materials: [a]', 'materials .* expected names and label values'),
        ('ignore: 1.5', 'ignore: 1.5'),
        ('voxel_size_nm: [30, 30]', 'voxel_size_nm'),
        ('voxel_size_nm: 0', 'voxel_size_nm'),
        ('material: {a: 1}', 'holds material; expected keys among materials'),
        ('- a', 'expected keys among'),
        ('a: {', 'cannot be read'),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path, text, told):
    (tmp_path / 'x.yaml').write_text(text)
    with pytest.raises(InputError, match=rf'^{tmp_path}/x.yaml: .*{told}'):
        read_material_file(tmp_path / 'x.yaml')


@pytest.mark.parametrize(
    ('labels', 'names'),
    [
        ('x.labels.tif', ('x.yaml', 'x.labels.yaml', 'x.labels.tif.yaml')),
        ('x.labels', ('x.yaml', 'x.labels.yaml')),
        ('x.ome.tif', ('x.yaml', 'x.ome.tif.yaml')),
        ('x.zarr::labels/cells', ('x.yaml', 'x.zarr.yaml')),
    ],
)
def test_the_file_with_the_longest_name_tells(tmp_path, labels, names):
    assert find_material_file(tmp_path / labels) is None
    for name in names:
        (tmp_path / name).write_text('')
        assert find_material_file(tmp_path / labels) == tmp_path / name


def test_the_nearest_file_of_a_folder_tells(tmp_path):
    labels = tmp_path / 'root' / 'laboratory' / 'labels' / 'x.tif'
    labels.parent.mkdir(parents=True)
    top = tmp_path / 'root'
    for folder in (tmp_path, top, top / 'laboratory', labels.parent):
        (folder / 'materials.yaml').write_text('')
        expected = None if folder == tmp_path else folder / 'materials.yaml'  # above the library
        assert find_folder_file(labels, top) == expected
