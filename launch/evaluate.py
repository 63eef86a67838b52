"""Score segmentations against true labels.

    python -m launch.evaluate --prediction=FILE_OR_DIR --truth=FILE_OR_DIR --output=DIR
    python -m launch.evaluate --checkpoint=W --image=DIR --truth=DIR --output=DIR --baselines=otsu

Prints Dice, IoU, precision, recall, accuracy and F1 of each class, volume, surface and their ratio
of prediction and truth, mean ± SD over the volumes and the paired t-test; `--output` saves them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from absl import flags

from launch.common import log_devices, run_main
from sxt_jax.core.atomic import check_writable
from sxt_jax.core.errors import InputError

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Workdir of a training run: segment first.')
_PREDICTION = flags.DEFINE_string('prediction', None, 'Predicted labels, a file or a folder.')
_TRUTH = flags.DEFINE_string('truth', None, 'True labels, a file or a folder.')
_IMAGE = flags.DEFINE_string('image', None, 'Tomograms, for --checkpoint and --baselines.')
_BASELINES = flags.DEFINE_list('baselines', [], "Thresholds to compare with: 'otsu', 'adaptive'.")
_FOREGROUND = flags.DEFINE_enum(
    'foreground', 'auto', ['auto', 'brighter', 'darker'], 'What a threshold takes for foreground.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for tables, figure and predictions.')
_CLASSES = flags.DEFINE_string('classes', None, "Names of labels: 'cytoplasm=1,beads=2'.")
_IGNORE_LABEL = flags.DEFINE_integer('ignore_label', None, 'True label of voxels left out.')
_VOXEL_SIZE = flags.DEFINE_list('voxel_size_nm', None, "z,y,x instead of the files' own.")
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of images in HDF5 or OME-Zarr.')
_LABEL_DATASET = flags.DEFINE_string('label_dataset', None, 'Data set of true labels, likewise.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.data.classes import parse_classes
    from sxt_jax.measure.surface import check_voxel_size
    from sxt_jax.pipelines import evaluate_volumes as evaluation
    from sxt_jax.pipelines.evaluation_report import report, save_evaluation

    if not _TRUTH.value:
        raise InputError('command line', 'no --truth', 'true labels to compare with')
    if not (_CHECKPOINT.value or _PREDICTION.value or _BASELINES.value):
        raise InputError('command line', 'nothing to score', '--prediction or --checkpoint')
    if _CHECKPOINT.value and (_PREDICTION.value or not _OUTPUT.value):
        raise InputError('command line', '--checkpoint', '--output with it, and no --prediction')
    if _OUTPUT.value:
        check_writable(_OUTPUT.value)
    ignored, names, size = _IGNORE_LABEL.value, _CLASSES.value, _VOXEL_SIZE.value
    options = evaluation.Options(
        baselines=tuple(_BASELINES.value),
        foreground=_FOREGROUND.value,
        classes=parse_classes(names, ignore_value=ignored) if names else None,
        ignore_label=ignored,
        voxel_size_nm=check_voxel_size(size) if size else None,
    )
    datasets = {'dataset': _DATASET.value, 'label_dataset': _LABEL_DATASET.value}
    if _CHECKPOINT.value:
        log_devices()
        cases, known = evaluation.predict_with_checkpoint(
            _CHECKPOINT.value, _TRUTH.value, _IMAGE.value, str(_OUTPUT.value), **datasets
        )
        options = dataclasses.replace(options, classes=options.classes or known)
    else:
        cases = evaluation.find_cases(
            _TRUTH.value, prediction=_PREDICTION.value, image=_IMAGE.value, **datasets
        )
    result = evaluation.evaluate_volumes(cases, options=options)
    print(report(result))
    if _OUTPUT.value:
        for path in save_evaluation(result, _OUTPUT.value):
            print(path)


if __name__ == '__main__':
    run_main(main)
