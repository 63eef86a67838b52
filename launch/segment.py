"""Segment tomograms with a trained network.

    python -m launch.segment --checkpoint=W --input=FILE_OR_DIR --output=DIR
    python -m launch.segment --checkpoint=W --input=IN --output=DIR --instances --cell_radius=12

Labels have the name, format, grid and voxel size of their tomogram; of several checkpoints A,B,C
the mean probability counts. A file that fails does not stop the others; exit status 2. Processes of
a job (README) share out files, or the slices of an OME-Zarr. Tiles are those of the training,
unless --tile, --overlap and --blend say otherwise. Networks with a label −1 … 1 (deep_sxt) see
whole slices where memory allows; above 0 is the mask. Those with maps of cells (fibsem) label cells
1, boundaries 2; `--probabilities` writes the maps, up to 255. Those with flows (cellpose3d, by
slices cellpose2d) number cells with `--instances`; `--probabilities` writes foreground and flows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from launch.common import EXIT_BAD_INPUT, is_first_process, log_devices, run_main
from sxt_jax.core.errors import InputError

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Workdir of a training run; or A,B,C.')
_INPUT = flags.DEFINE_string('input', None, 'A tomogram or a folder of tomograms.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for the results.')
_PROBABILITIES = flags.DEFINE_boolean('probabilities', False, 'Write them too, or flows.')
_MIRROR = flags.DEFINE_string('mirror', '', "Average over mirror images along these of 'zyx'.")
_ROTATE = flags.DEFINE_boolean('rotate', False, 'Average over four quarter turns about z.')
_TILE = flags.DEFINE_list('tile', None, 'Sides z,y,x of the tiles images are cut into.')
_OVERLAP = flags.DEFINE_list('overlap', None, 'Overlap z,y,x of neighbouring tiles.')
_BLEND = flags.DEFINE_string('blend', None, 'Weights there: constant, cosine or distance.')
_CLEAN = flags.DEFINE_float('clean', 0, "Remove objects below this share of a class's largest.")
_FILL = flags.DEFINE_float('fill', 0, 'Fill holes below this share of the object around them.')
_INSTANCES = flags.DEFINE_boolean('instances', False, 'Cells one by one instead of classes.')
_RADIUS = flags.DEFINE_float('cell_radius', None, 'Typical radius of a cell, in voxels along x.')
_SKIP = flags.DEFINE_boolean('skip_existing', False, 'Leave results alone that are there.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set inside HDF5 or OME-Zarr files.')


def _numbers(flag: flags.FlagHolder) -> list[int] | None:
    if not all(map(str.isdecimal, flag.value or ())):
        raise InputError(f'--{flag.name}', ','.join(flag.value), 'three whole numbers z,y,x')
    return None if flag.value is None else [int(n) for n in flag.value]


def main(argv: Sequence[str]) -> int:
    del argv
    from sxt_jax.pipelines.segment_volume import Options, segment_files

    if not (_CHECKPOINT.value and _INPUT.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--checkpoint, --input and --output')
    log_devices()
    options = Options(
        probabilities=_PROBABILITIES.value,
        mirror=_MIRROR.value,
        rotate=_ROTATE.value,
        tile=_numbers(_TILE),
        overlap=_numbers(_OVERLAP),
        blend=_BLEND.value,
        clean=_CLEAN.value,
        fill=_FILL.value,
        skip_existing=_SKIP.value,
        dataset=_DATASET.value,
        instances=_INSTANCES.value,
        cell_radius=_RADIUS.value,
    )
    outcomes = segment_files(_CHECKPOINT.value, _INPUT.value, _OUTPUT.value, options=options)
    for outcome in outcomes if is_first_process() else ():
        if outcome.error:
            print(f'error: {outcome.error}', file=sys.stderr)
        else:
            print(f'{outcome.labels}{" (was there already)" * outcome.skipped}')
    return EXIT_BAD_INPUT if any(outcome.error for outcome in outcomes) else 0


if __name__ == '__main__':
    run_main(main, several_processes=True)
