"""Prepare a stack of slices: aligned in their plane, cropped, of even contrast along the stack.

    python -m launch.prepare --image=STACK.tif --output=PREPARED.zarr
    python -m launch.prepare --image=SLICES_DIR --output=PREPARED.zarr --contrast=equalise
    python -m launch.prepare --image=STACK.zarr --output=PREPARED.zarr --padding=0 --noalign \\
        --contrast=match --contrast_slices=30

Slices are moved by whole pixels, so gray values stay as they are unless --contrast says otherwise.
Neighbours are put on top of each other; what is slanted becomes upright by that, slowly, along the
stack: --keep_drift=100 corrects what differs from the mean course of about 100 slices only. How
each slice was moved is written beside the output, as OUTPUT.shifts.csv. The stack is read twice,
slice by slice: memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import log_devices, run_main
from sxt_jax.core.errors import InputError

_IMAGE = flags.DEFINE_string('image', None, 'A stack: a file, or a folder of slices.')
_OUTPUT = flags.DEFINE_string('output', None, 'File for the result; .zarr for large stacks.')
_ALIGN = flags.DEFINE_boolean('align', True, 'Move slices onto each other.')
_MAX_SHIFT = flags.DEFINE_integer('max_shift', 64, 'Pixels between neighbouring slices at most.')
_DRIFT = flags.DEFINE_float('keep_drift', 0, 'Slices over which drift stays; 0: none does.')
_CROP = flags.DEFINE_boolean('crop', True, 'Keep only what all slices show.')
_PADDING = flags.DEFINE_integer('padding', None, 'Gray level of what was padded before.')
_CONTRAST = flags.DEFINE_enum(
    'contrast', 'none', ['none', 'equalise', 'match'], 'Histograms: as are, flat, as around.'
)
_SLICES = flags.DEFINE_float('contrast_slices', 20, 'How far "around" reaches: slices, or inf.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of the stack in HDF5 or OME-Zarr.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.prepare_stack import Options, prepare_stack

    if not (_IMAGE.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--image and --output')
    log_devices()
    options = Options(
        align=_ALIGN.value, max_shift=_MAX_SHIFT.value, keep_drift=_DRIFT.value,
        crop=_CROP.value, padding=_PADDING.value, contrast=_CONTRAST.value,
        contrast_slices=_SLICES.value,
    )  # fmt: skip
    prepared = prepare_stack(_IMAGE.value, _OUTPUT.value, options=options, dataset=_DATASET.value)
    (top, left), (bottom, right) = prepared.box
    print(_OUTPUT.value)
    print(
        f'  {len(prepared.moves)} slices of {bottom - top} × {right - left} pixels, moved by up to '
        f'{abs(prepared.moves).max()} pixels'
    )


if __name__ == '__main__':
    run_main(main)
