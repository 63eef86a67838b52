"""Segment tomograms with a trained network.

    python -m launch.segment --checkpoint=W --input=FILE_OR_DIR --output=DIR
    python -m launch.segment --checkpoint=W --input=FILE_OR_DIR --output=DIR \\
        --instances --cell_radius=12

Labels have the name, format, grid and voxel size of their tomogram. A file that cannot be
segmented is reported and does not stop the others; the exit status is then 2.

`--instances` is for networks that give flows, such as cellpose3d and, seeing slices in three
orientations, cellpose2d: each cell gets a number of its own. With `--probabilities` foreground and
flows are written too; `launch.reconstruct` makes other instances of them without the network.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from launch.common import EXIT_BAD_INPUT, log_devices, run_main
from sxt_jax.core.errors import InputError

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Workdir of a training run.')
_INPUT = flags.DEFINE_string('input', None, 'A tomogram or a folder of tomograms.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for the results.')
_PROBABILITIES = flags.DEFINE_boolean(
    'probabilities', False, 'Also write probabilities (or flows).'
)
_MIRROR = flags.DEFINE_string('mirror', '', "Average over mirror images along these of 'zyx'.")
_CLEAN = flags.DEFINE_float('clean', 0, "Remove objects below this share of a class's largest.")
_FILL = flags.DEFINE_float('fill', 0, 'Fill holes below this share of the object around them.')
_INSTANCES = flags.DEFINE_boolean('instances', False, 'Cells one by one instead of classes.')
_RADIUS = flags.DEFINE_float('cell_radius', None, 'Typical radius of a cell, in voxels along x.')
_SKIP = flags.DEFINE_boolean('skip_existing', False, 'Leave results alone that are there.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set inside HDF5 or OME-Zarr files.')


def main(argv: Sequence[str]) -> int:
    del argv
    from sxt_jax.pipelines.segment_volume import Options, segment_files

    if not (_CHECKPOINT.value and _INPUT.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--checkpoint, --input and --output')
    log_devices()
    options = Options(
        probabilities=_PROBABILITIES.value,
        mirror=_MIRROR.value,
        clean=_CLEAN.value,
        fill=_FILL.value,
        skip_existing=_SKIP.value,
        dataset=_DATASET.value,
        instances=_INSTANCES.value,
        cell_radius=_RADIUS.value,
    )
    outcomes = segment_files(_CHECKPOINT.value, _INPUT.value, _OUTPUT.value, options=options)
    for outcome in outcomes:
        if outcome.error:
            print(f'error: {outcome.error}', file=sys.stderr)
        else:
            print(f'{outcome.labels}{" (was there already)" * outcome.skipped}')
    return EXIT_BAD_INPUT if any(outcome.error for outcome in outcomes) else 0


if __name__ == '__main__':
    run_main(main)
