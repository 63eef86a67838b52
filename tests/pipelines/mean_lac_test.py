"""Absorption of organelles in 1/µm, from a simulated scene by way of files to the table.

Compared are volumes without noise, on the voxels that truly belong to an organelle: with what the
scene says of each object, and with the materials it was painted of, without texture. A voxel at a
border holds two materials, and reconstruction blurs: there a mean is that of the image, not of the
material. So with materials only voxels are compared whose neighbours are of the same class.
"""

import dataclasses

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import (
    CLASS_NAMES,
    ImagingParameters,
    build_scene,
    reconstruct,
    t_cell_parameters,
    tilt_series,
)
from sxt_jax.io import write_volume
from sxt_jax.pipelines.labelled_objects import Choice
from sxt_jax.pipelines.measure_objects import measure_files

SHAPE, VOXEL_NM = (56, 56, 56), 110.0
ORGANELLES = ('nucleus', 'nucleolus', 'mitochondria', 'lipid droplets', 'vacuoles')
BIG = {  # so that some voxels lie inside
    'nucleolus_radius_nm': (500, 700),
    'mitochondrion_radius_nm': (350, 420),
    'lipid_droplet_radius_nm': (380, 450),
    'vacuole_radius_nm': (400, 500),
}


@pytest.fixture(scope='module')
def scene():
    parameters, _ = t_cell_parameters(SHAPE, voxel_size_nm=VOXEL_NM)
    parameters = dataclasses.replace(parameters, n_cells=(1, 1), texture=0.0, **BIG)
    return parameters, build_scene(np.random.default_rng(3), parameters)


def measure(folder, image, labels, *, suffix, kind, **choice):
    size = (VOXEL_NM,) * 3
    names = CLASS_NAMES if kind == 'classes' or 'class_' in choice else None
    for name, data in (('image', image), ('labels', labels)):
        named = names if name == 'labels' else None
        write_volume(folder / f'{name}{suffix}', Volume(data, size, class_names=named))
    return measure_files(
        folder / f'labels{suffix}',
        folder / 'table.csv',
        kind=kind,
        choice=Choice(**choice),
        image=folder / f'image{suffix}',
    ).table


@pytest.mark.parametrize('suffix', ['.tif', '.mrc', '.h5', '.ome.zarr'])
def test_each_organelle_has_the_absorption_of_the_scene(scene, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr('sxt_jax.pipelines.measure_objects.save_figure', lambda *_: None)
    _, built = scene
    labels = built.organelles.astype(np.uint16)
    table = measure(
        tmp_path, built.absorption, labels, suffix=suffix, kind='objects', instances=True
    )
    true = dict(zip(built.objects['label'], built.objects['mean_lac_per_um'], strict=True))
    found = dict(zip(table['label'], table['mean_lac_per_um'], strict=True))
    assert len(found) > 10
    for label, lac in found.items():
        assert lac == pytest.approx(true[label], rel=1e-4)


def inner(built):
    """Labels without the voxels next to another class."""
    labels = built.labels
    same = np.ones(labels.shape, bool)
    for axis in range(3):
        for step in (-1, 1):
            same &= np.roll(labels, step, axis) == labels
    return np.where(same, labels, 0).astype(np.uint8)


def materials(built, labels):
    """The mean LAC that the objects of each class are painted with, by their voxels."""
    n = built.objects['label'].max() + 1
    painted = np.zeros(n)
    painted[built.objects['label']] = built.objects['material_lac_per_um']
    return {
        name: painted[built.organelles[labels == value]].mean()
        for value, name in CLASS_NAMES.items()
        if name in ORGANELLES
    }


def reconstructed(parameters, absorption):
    """Filtered back-projection of views over 180° without noise, blur and misalignment."""
    exact = {'photons_per_pixel': None, 'zone_plate_nm': None, 'jitter_px': 0.0}
    imaging = ImagingParameters(**exact, filter_name='ramp')
    rng = np.random.default_rng(0)
    series = tilt_series(rng, absorption, scene=parameters, imaging=imaging)
    return np.asarray(reconstruct(series, scene=parameters, imaging=imaging))


@pytest.mark.parametrize('image', ['scene', 'reconstruction'])
def test_classes_have_the_absorption_of_their_material(scene, image, tmp_path):
    parameters, built = scene
    lac, labels = built.absorption, inner(built)
    lac = reconstructed(parameters, lac) if image == 'reconstruction' else lac
    table = measure(tmp_path, lac, labels, suffix='.h5', kind='classes')
    found = dict(zip(table['class'], table['mean_lac_per_um'], strict=True))
    for name, true in materials(built, labels).items():
        assert found[name] == pytest.approx(true, rel=0.02), name
