"""Cells of a FIB-SEM stack of which a few slices are labelled: split slice by slice, and tracked.

    python -m launch.propagate --image=STACK.zarr --labels=SLICES.zarr \\
        --maps=OUT/STACK.probabilities.zarr --output=CELLS.zarr
    python -m launch.propagate --image=STACK.tif --labels=SLICES.tif --output=CELLS.tif \\
        --method=flow

Labels have the shape of the stack; a labelled slice holds an id for each cell, the same one in all
slices, and 0 outside; slices of nothing but 0 are unlabelled (or those of nothing but
--ignore_value are). Maps are mask and boundary of the cells, as a network of
configs/fibsem.py:cells predicts them:

    python -m launch.segment --checkpoint=W --input=STACK.zarr --output=OUT --probabilities

Cells keep their ids, islands that meet no cell get larger ones (--nokeep_islands leaves them out).
--seeds=centroids is as published (Machireddy et al. 2023); what the methods do, --help tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import log_devices, run_main
from sxt_jax.core.errors import InputError

_IMAGE = flags.DEFINE_string('image', None, 'The stack.')
_LABELS = flags.DEFINE_string('labels', None, 'Its labels, in a few slices.')
_MAPS = flags.DEFINE_string('maps', None, 'Mask and boundary of the cells, two channels.')
_OUTPUT = flags.DEFINE_string('output', None, 'File for the cells.')
_METHOD = flags.DEFINE_enum(
    'method', 'frames', ['mask', 'boundary', 'flow', 'overlay', 'selective', 'frames'],
    'What parts cells: mask: seeds alone; boundary: the predicted one as well; flow: labels moved '
    'along the optical flow, without maps; overlay: the mask and moved boundaries; selective: '
    'the predicted boundary, and moved ones where it is missing; frames: likewise, slice by slice.',
)  # fmt: skip
_SEEDS = flags.DEFINE_enum(
    'seeds', 'regions', ['regions', 'centroids'], 'Moved regions, or centroids as published.'
)
_MARGIN = flags.DEFINE_integer('margin_px', 2, 'How far moved boundaries may be off, in pixels.')
_MIN_ISLAND = flags.DEFINE_integer('min_island_px', 3, 'Leave out smaller islands, in pixels.')
_KEEP = flags.DEFINE_boolean('keep_islands', True, 'Write islands that meet no cell.')
_IGNORE = flags.DEFINE_integer('ignore_value', None, 'Label value of pixels without a label.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of the stack in HDF5 or OME-Zarr.')
_LABEL_DATASET = flags.DEFINE_string('label_dataset', None, 'Data set of labels, likewise.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.propagate_cells import Options, propagate_file
    from sxt_jax.propagation import Recipe

    if not (_IMAGE.value and _LABELS.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--image, --labels and --output')
    log_devices()
    recipe = Recipe(_METHOD.value, _SEEDS.value, _MARGIN.value, _MIN_ISLAND.value)
    options = Options(recipe, _IGNORE.value, _KEEP.value)
    found = propagate_file(
        _IMAGE.value, _LABELS.value, _OUTPUT.value, maps=_MAPS.value, options=options,
        dataset=_DATASET.value, label_dataset=_LABEL_DATASET.value,
    )  # fmt: skip
    print(
        f'{found.n_cells} cells of {len(found.labelled)} labelled slices, '
        f'{found.n_islands} islands that meet none: {_OUTPUT.value}'
    )


if __name__ == '__main__':
    run_main(main)
