"""Dense labels of tomograms of which a few slices are labelled by hand (smart interpolation).

    python -m launch.interpolate --image=TOMOGRAM.mrc --labels=SLICES.tif --output=DENSE.tif
    python -m launch.interpolate --image=DIR --labels=DIR --output=DIR --smooth=100 --uncertainty
    python -m launch.interpolate --image=TOMOGRAM.mrc --labels=SLICES.tif --output=DENSE.tif \\
        --suggest_slices=3

Sparse labels have the shape of their tomogram. In a slice with any label 0 is background; slices of
nothing but 0 are unlabelled (or voxels of --ignore_value are, wherever they lie). Labels < 0 are
left out. Every 20th slice of a cell is usually enough. The result can be trained on:

    python -m launch.train --config=configs/stack.py --workdir=W --config.data.train=IMAGES \\
        --config.data.labels=DENSE
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from launch.common import EXIT_BAD_INPUT, log_devices, run_main
from sxt_jax.core.errors import InputError

_IMAGE = flags.DEFINE_string('image', None, 'A tomogram or a folder of tomograms.')
_LABELS = flags.DEFINE_string('labels', None, 'Sparse labels likewise; default: with the images.')
_OUTPUT = flags.DEFINE_string('output', None, 'File, of one tomogram, or folder for the result.')
_UNCERTAINTY = flags.DEFINE_boolean(
    'uncertainty', False, 'Also write uncertainty/…: 0 … 254, 255 unvisited.'
)
_WALKS = flags.DEFINE_integer('n_walks', 10, 'Walks from each voxel of a labelled slice.')
_STEPS = flags.DEFINE_integer('n_steps', 400, 'Steps of a walk; published: 4000, no better.')
_AXES = flags.DEFINE_enum('axes', 'z', ['z', 'zyx'], 'Labelled slices are xy, or also xz and yz.')
_SMOOTH = flags.DEFINE_integer('smooth', 0, 'Iterations of smoothing: 30 for cells, 10 if small.')
_PUBLISHED = flags.DEFINE_boolean('published_smoothing', False, 'Smooth as Biomedisa does.')
_KEEP = flags.DEFINE_boolean('keep_slices', False, 'Labelled slices stay exactly as they are.')
_SETTLED = flags.DEFINE_float('settled', 0, 'Stop when fewer labels than this share change.')
_FULL = flags.DEFINE_boolean('full_range', False, 'Extremes of gray are 0 and 255, as published.')
_IGNORE = flags.DEFINE_integer('ignore_value', None, 'Label value of voxels without a label.')
_CLEAN = flags.DEFINE_float('clean', 0, "Remove objects below this share of a label's largest.")
_FILL = flags.DEFINE_float('fill', 0, 'Fill holes below this share of the object around them.')
_SUGGEST = flags.DEFINE_integer('suggest_slices', 0, 'Name this many slices to label next.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the walks.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of images in HDF5 or OME-Zarr.')
_LABEL_DATASET = flags.DEFINE_string('label_dataset', None, 'Data set of labels, likewise.')


def main(argv: Sequence[str]) -> int:
    del argv
    from sxt_jax.pipelines.interpolate_labels import Options, interpolate_files

    if not (_IMAGE.value and _OUTPUT.value):
        raise InputError('command line', 'a flag is missing', '--image and --output')
    log_devices()
    options = Options(
        n_walks=_WALKS.value, n_steps=_STEPS.value, axes=_AXES.value, smooth=_SMOOTH.value,
        published_smoothing=_PUBLISHED.value, keep_slices=_KEEP.value, settled=_SETTLED.value,
        full_range=_FULL.value,
        ignore_value=_IGNORE.value, seed=_SEED.value, uncertainty=_UNCERTAINTY.value,
        clean=_CLEAN.value, fill=_FILL.value, suggest_slices=_SUGGEST.value,
    )  # fmt: skip
    outcomes = interpolate_files(
        _IMAGE.value, _LABELS.value, _OUTPUT.value, options=options,
        dataset=_DATASET.value, label_dataset=_LABEL_DATASET.value,
    )  # fmt: skip
    for outcome in outcomes:
        if outcome.error:
            print(f'error: {outcome.error}', file=sys.stderr)
        for path in outcome.files:
            print(path)
        for plane, number, voxels in outcome.suggestions:
            print(f'  label next: {plane} slice {number} (settles about {voxels:,.0f} voxels)')
    return EXIT_BAD_INPUT if any(outcome.error for outcome in outcomes) else 0


if __name__ == '__main__':
    run_main(main)
