"""Instances from saved flow volumes, of this library, Cellpose or Cellpose3D.

    python -m launch.reconstruct --flows=FILE --output=INSTANCES.tif --cell_radius=12
    python -m launch.reconstruct --flows=cells_dP.tif --foreground=cells_cellprob.tif \\
        --threshold=0 --output=INSTANCES.tif --cell_radius=12
    python -m launch.reconstruct --flows=pred1.tif,pred2.tif,pred3.tif --foreground=pred0.tif \\
        --sign=away --output=INSTANCES.tif --cell_radius=12

A file of flows has its components as channels, and the foreground before them unless that is a file
of its own. `--published` takes the steps of Cellpose3D one by one. A volume that does not fit the
device is worked on block by block, with the same result; `--block` says in which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.common import log_devices, run_main
from sxt_jax.core.errors import InputError

_FLOWS = flags.DEFINE_list('flows', [], 'A file of flows, or a file for each component.')
_FOREGROUND = flags.DEFINE_string('foreground', None, 'File of the foreground.')
_OUTPUT = flags.DEFINE_string('output', None, 'File for the instances.')
_RADIUS = flags.DEFINE_float('cell_radius', None, 'Typical radius of a cell, in voxels along x.')
_COMPONENTS = flags.DEFINE_string('components', 'zyx', "Order of the components, such as 'xyz'.")
_SIGN = flags.DEFINE_enum('sign', 'to', ['to', 'away'], "To the cell's centre or away from it.")
_THRESHOLD = flags.DEFINE_float('threshold', 0.5, 'Foreground is above it (logits: 0).')
_SMOOTHING = flags.DEFINE_float('smoothing', 1, 'SD in voxels of the Gaussian over the flows.')
_MIN = flags.DEFINE_float('min_diameter', None, 'Remove smaller instances; default: the radius.')
_MAX = flags.DEFINE_float('max_diameter', None, 'Remove larger instances.')
_PUBLISHED = flags.DEFINE_boolean('published', False, 'As the released code of Cellpose3D.')
_BLOCK = flags.DEFINE_list('block', None, 'z,y,x voxels that are on the device at a time.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set inside HDF5 or OME-Zarr files.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.instances import Recipe
    from sxt_jax.pipelines.reconstruct_instances import reconstruct_file

    if not (_FLOWS.value and _OUTPUT.value and _RADIUS.value):
        raise InputError('command line', 'a flag is missing', '--flows, --output, --cell_radius')
    log_devices()
    options: dict[str, Any] = {'threshold': _THRESHOLD.value, 'smoothing': _SMOOTHING.value}
    sizes: dict[str, Any] = {'min_diameter': _MIN.value, 'max_diameter': _MAX.value}
    if _PUBLISHED.value:
        if None in sizes.values():
            raise InputError('--published', 'no sizes', '--min_diameter and --max_diameter')
        recipe = Recipe.published(**sizes, **options)
    else:
        recipe = Recipe(**sizes, **options)
    n = reconstruct_file(
        _FLOWS.value,
        _OUTPUT.value,
        cell_radius=_RADIUS.value,
        foreground=_FOREGROUND.value,
        components=_COMPONENTS.value,
        away=_SIGN.value == 'away',
        dataset=_DATASET.value,
        recipe=recipe,
        block=_sides(_BLOCK.value),
    )
    print(f'{n} instances: {_OUTPUT.value}')


def _sides(words: Sequence[str] | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    if len(words) != 3 or not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise InputError('--block', repr(','.join(words)), 'three positive numbers: z,y,x')
    return tuple(map(int, words))


if __name__ == '__main__':
    run_main(main)
