"""Review sheet: predicted labels against corrected ones on random slices.

    python -m launch.review --prediction=LABELS.tif --corrected=CORRECTED.tif \\
        --image=TOMOGRAM.mrc --output=REVIEW.png --n_slices=20 --artefact_value=2

The corrected stack is the prediction with what was missed drawn in and what was wrong taken away;
what lies on artefacts of the reconstruction may be marked by a value of its own. Of all labelled
pixels of each slice the sheet gives the percentages that are true positive, false negative, false
positive and artefact, with mean ± SD over the slices; REVIEW.csv and REVIEW.summary.csv have the
numbers. Slices without any label in the corrected stack were not corrected, and are not drawn.
Folders are paired by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import run_main
from sxt_jax.core.errors import InputError

_PREDICTION = flags.DEFINE_string('prediction', None, 'Predicted labels, a file or a folder.')
_CORRECTED = flags.DEFINE_string('corrected', None, 'Corrected labels, a file or a folder.')
_IMAGE = flags.DEFINE_string('image', None, 'Tomograms, a file or a folder.')
_OUTPUT = flags.DEFINE_string('output', None, 'Name of the sheet: .png, .pdf or .svg.')
_N_SLICES = flags.DEFINE_integer('n_slices', 10, 'Random slices of each volume.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the choice of slices.')
_ARTEFACT = flags.DEFINE_integer('artefact_value', None, 'Label of artefacts in the corrected.')
_CLASS = flags.DEFINE_string('class', None, 'Name or value of the class; default: the only one.')
_SIZE = flags.DEFINE_integer('min_size', 0, 'Leave out predicted objects of fewer voxels.')
_ERODE = flags.DEFINE_float('erode', 0, 'Erode predictions by a ball of this radius in voxels.')
_BORDER = flags.DEFINE_integer('crop_border', 0, 'Voxels at each side that are left out.')
_VOXEL_SIZE = flags.DEFINE_list('voxel_size_nm', None, "z,y,x instead of the files' own.")


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.labelled_objects import Choice, parse_voxel_size
    from sxt_jax.pipelines.review_labels import Options, review_files
    from sxt_jax.plots.review import OUTCOMES

    if not (_PREDICTION.value and _CORRECTED.value and _IMAGE.value and _OUTPUT.value):
        expected = '--prediction, --corrected, --image and --output'
        raise InputError('command line', 'a flag is missing', expected)
    choice = Choice(
        class_=_CLASS.value, crop_border=_BORDER.value, erode=_ERODE.value,
        min_size=_SIZE.value, voxel_size_nm=parse_voxel_size(_VOXEL_SIZE.value),
    )  # fmt: skip
    options = Options(
        n_slices=_N_SLICES.value, seed=_SEED.value, artefact_value=_ARTEFACT.value, choice=choice
    )
    made = review_files(
        _PREDICTION.value, _CORRECTED.value, _IMAGE.value, _OUTPUT.value, options=options
    )
    print(f'Of all labelled pixels of {len(made.slices["z"])} slices (mean ± SD):')
    for name, mean, sd in zip(*(made.summary[k] for k in ('outcome', 'mean', 'sd')), strict=True):
        print(f'{OUTCOMES[name][0] + ":":16}{mean:5.1f} ± {sd:.1f} %')
    for what, path in made.files.items():
        print(f'{what}: {path}')


if __name__ == '__main__':
    run_main(main)
