"""Measures of segmented objects as a table with units: filopodia, any objects, classes.

    python -m launch.measure --kind=filopodia --input=LABELS.tif --class=filopodia --output=F.csv
    python -m launch.measure --kind=filopodia --input=DIR --instances --output=F.csv
    python -m launch.measure --kind=objects --input=LABELS.tif --class=2 --output=OBJECTS.csv
    python -m launch.measure --kind=objects --input=NUCLEOLI.tif --instances --inside=NUCLEI.tif \
        --image=EM.tif --gray --texture --output=NUCLEOLI.csv
    python -m launch.measure --kind=classes --input=LABELS.tif --image=LAC.mrc --output=CLASSES.csv

Objects are the connected parts of a class, or with `--instances` the ids; the files of a folder go
into one table. Filopodia: the axes and the perimeter of the sections with all slices and their
mean ± SD (F.sections.csv has each section), the axes of the fitted ellipsoid, volume, surface and
their ratio, and dot plots (F.png). What touches the border of the volume is not whole and left
out; what an object encloses is filled first, for labels of membranes are hollow. Objects: shape and
dot plots (O.png); `--texture` adds co-occurrence, size zones and pattern spectrum of the image,
`--inside` the proximity to the membrane of what contains them, and a table of that
(O.containers.csv) with the volume they take of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import run_main
from sxt_jax.core.errors import InputError

_KIND = flags.DEFINE_string('kind', None, 'filopodia, objects or classes.')
_INPUT = flags.DEFINE_string('input', None, 'A file of labels, or a folder of them.')
_OUTPUT = flags.DEFINE_string('output', None, 'The table, a name ending in .csv or .json.')
_CLASS = flags.DEFINE_string('class', None, 'Name or value of the class; default: the only one.')
_INSTANCES = flags.DEFINE_boolean('instances', False, 'Labels are ids of objects, not classes.')
_IMAGE = flags.DEFINE_string('image', None, 'Tomograms in µm⁻¹: absorption is measured as well.')
_GRAY = flags.DEFINE_boolean('gray', False, 'The image has gray values instead of µm⁻¹.')
_TEXTURE = flags.DEFINE_boolean('texture', False, 'Textures of objects in the image.')
_LEVELS = flags.DEFINE_integer('gray_levels', 16, 'Gray levels of textures.')
_RANGE = flags.DEFINE_list('gray_range', None, "low,high; default: each object's percentiles.")
_BALL = flags.DEFINE_integer('largest_ball', 8, 'Radius in voxels, of the pattern spectrum.')
_INSIDE = flags.DEFINE_string('inside', None, 'Ids of what contains the objects: file or folder.')
_INSIDE_CLASS = flags.DEFINE_string('inside_class', None, 'A class there, instead of ids.')
_FILL = flags.DEFINE_boolean('fill', True, 'Fill what a filopodium encloses.')
_SIZE = flags.DEFINE_integer('min_size', 0, 'Leave out objects of fewer voxels.')
_ERODE = flags.DEFINE_float('erode', 0, 'Erode the class by a ball of this radius in voxels.')
_BORDER = flags.DEFINE_integer('crop_border', 0, 'Voxels at each side that count as background.')
_VOXEL_SIZE = flags.DEFINE_list('voxel_size_nm', None, "z,y,x instead of the file's own.")
_DATASET = flags.DEFINE_string('dataset', None, 'Data set inside HDF5 or OME-Zarr files.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines import measure_objects as pipeline
    from sxt_jax.pipelines.labelled_objects import Choice, parse_voxel_size

    if not (_KIND.value and _INPUT.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--kind, --input and --output')
    choice = Choice(
        class_=_CLASS.value, instances=_INSTANCES.value, crop_border=_BORDER.value,
        erode=_ERODE.value, min_size=_SIZE.value, dataset=_DATASET.value,
        voxel_size_nm=parse_voxel_size(_VOXEL_SIZE.value),
    )  # fmt: skip
    texture = _TEXTURE.value and pipeline.parse_texture(_RANGE.value, _LEVELS.value, _BALL.value)
    extras = pipeline.Extras(texture or None, _GRAY.value, _INSIDE.value, _INSIDE_CLASS.value)
    made = pipeline.measure_files(
        _INPUT.value, _OUTPUT.value, kind=_KIND.value, choice=choice, image=_IMAGE.value,
        fill=_FILL.value, extras=extras,
    )  # fmt: skip
    cut = f', {made.n_cut} more are cut by the border' if made.n_cut else ''
    print(f'{len(made.table["name"])} {_KIND.value}{cut}')
    for line in pipeline.summarise_measures(made.table) if _KIND.value == 'filopodia' else ():
        print(line)
    for what, path in made.files.items():
        print(f'{what}: {path}')


if __name__ == '__main__':
    run_main(main)
