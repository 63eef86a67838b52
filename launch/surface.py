"""Surfaces of a segmentation as files for viewers, with a table and a picture.

    python -m launch.surface --input=LABELS.tif --output=SCENE.obj
    python -m launch.surface --input=LABELS.tif --class=mitochondria --output=DIR --format=stl
    python -m launch.surface --input=INSTANCES.tif --instances --output=SCENE.ply

The connected parts of a class are the objects, or with `--instances` the ids. An output ending in
.obj, .stl or .ply takes all of them, with SCENE.csv and SCENE.png beside it; a folder gets a file
an object. Vertices are x, y, z in nm. Each surface is closed, also where the volume cuts it off.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import run_main
from sxt_jax.core.errors import InputError

_INPUT = flags.DEFINE_string('input', None, 'A file of labels.')
_OUTPUT = flags.DEFINE_string('output', None, 'A file .obj, .stl or .ply, or a new folder.')
_CLASS = flags.DEFINE_string('class', None, 'Name or value of the class; default: the only one.')
_INSTANCES = flags.DEFINE_boolean('instances', False, 'Labels are ids of objects, not classes.')
_FORMAT = flags.DEFINE_string('format', None, 'Of files in a folder: obj, stl or ply.')
_SMOOTHING = flags.DEFINE_integer('z_smoothing', 2, 'Slices smoothed over on each side; 0: none.')
_FACES = flags.DEFINE_integer('min_faces', 1000, 'Leave out objects with fewer triangles.')
_SIZE = flags.DEFINE_integer('min_size', 0, 'Leave out objects of fewer voxels.')
_ERODE = flags.DEFINE_float('erode', 0, 'Erode the class by a ball of this radius in voxels.')
_BORDER = flags.DEFINE_integer('crop_border', 0, 'Voxels at each side that count as background.')
_VOXEL_SIZE = flags.DEFINE_list('voxel_size_nm', None, "z,y,x instead of the file's own.")
_PICTURE = flags.DEFINE_boolean('picture', True, 'Also draw the scene.')
_AZIMUTH = flags.DEFINE_float('azimuth', 25, 'Degrees by which the scene is turned about z.')
_ELEVATION = flags.DEFINE_float('elevation', 50, 'Degrees; 90: seen as a slice, 0: from the side.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the colours.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set inside HDF5 or OME-Zarr files.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.extract_surfaces import Options, extract_surfaces
    from sxt_jax.pipelines.labelled_objects import Choice, parse_voxel_size
    from sxt_jax.plots.render import View

    if not (_INPUT.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--input and --output')
    choice = Choice(
        class_=_CLASS.value, instances=_INSTANCES.value, crop_border=_BORDER.value,
        erode=_ERODE.value, min_size=_SIZE.value, dataset=_DATASET.value,
        voxel_size_nm=parse_voxel_size(_VOXEL_SIZE.value),
    )  # fmt: skip
    options = Options(
        z_smoothing=_SMOOTHING.value, min_faces=_FACES.value, format=_FORMAT.value,
        picture=_PICTURE.value, view=View(_AZIMUTH.value, _ELEVATION.value), seed=_SEED.value,
    )  # fmt: skip
    made = extract_surfaces(_INPUT.value, _OUTPUT.value, choice=choice, options=options)
    print(f'{made.n_objects} objects with {made.n_faces} triangles')
    for what, path in made.files.items():
        print(f'{what}: {path}')


if __name__ == '__main__':
    run_main(main)
