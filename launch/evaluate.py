"""Score segmentations against true labels.

    python -m launch.evaluate --prediction=FILE_OR_DIR --truth=FILE_OR_DIR --output=DIR
    python -m launch.evaluate --checkpoint=W --image=DIR --truth=DIR --output=DIR --baselines=otsu
    python -m launch.evaluate --checkpoint=W --truth=CELLS --output=DIR --task='cell=cell+cytosol'
    python -m launch.evaluate --instances --prediction=DIR,OTHER_DIR --truth=DIR --output=DIR
    python -m launch.evaluate --instances --checkpoint=W --cell_radius=12 --image=DIR --truth=DIR \\
        --output=DIR

Prints Dice, IoU, precision, recall, accuracy and F1 of each class, volume, surface and their ratio
of prediction and truth, mean ± SD over the volumes and the paired t-test; `--output` saves them.

With `--task`, or a checkpoint trained for one, true labels are read by their names, as those of
`launch.library`; else by their values.

With `--instances` labels are ids of cells: Dice of every true cell with its best predicted cell,
average precision at IoU 0.5 … 0.95, panoptic quality, variation of information and adapted Rand
error; `--output` saves them with a table and box plots of the cells. Several predictions, named by
their folders, are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import log_devices, run_main

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Workdir of a training run: segment first.')
_PREDICTION = flags.DEFINE_string('prediction', None, 'Predicted labels, a file or a folder.')
_TRUTH = flags.DEFINE_string('truth', None, 'True labels, a file or a folder.')
_IMAGE = flags.DEFINE_string('image', None, 'Tomograms, for --checkpoint and --baselines.')
_INSTANCES = flags.DEFINE_boolean('instances', False, 'Labels are ids of cells, not classes.')
_RADIUS = flags.DEFINE_float('cell_radius', None, 'With --checkpoint: as in launch.segment.')
_BASELINES = flags.DEFINE_list('baselines', [], "Thresholds to compare with: 'otsu', 'adaptive'.")
_FOREGROUND = flags.DEFINE_enum(
    'foreground', 'auto', ['auto', 'brighter', 'darker'], 'What a threshold takes for foreground.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for tables, figure and predictions.')
_CLASSES = flags.DEFINE_string('classes', None, "Names of labels: 'cytoplasm=1,beads=2+5'.")
_TASK = flags.DEFINE_string('task', None, 'Classes as groups of names: see launch.library.')
_IGNORE_LABEL = flags.DEFINE_integer('ignore_label', None, 'True label of voxels left out.')
_VOXEL_SIZE = flags.DEFINE_list('voxel_size_nm', None, "z,y,x instead of the files' own.")
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of images in HDF5 or OME-Zarr.')
_LABEL_DATASET = flags.DEFINE_string('label_dataset', None, 'Data set of true labels, likewise.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.evaluation_request import Request, evaluate

    if _CHECKPOINT.value:
        log_devices()
    request = Request(
        truth=_TRUTH.value, prediction=_PREDICTION.value, checkpoint=_CHECKPOINT.value,
        image=_IMAGE.value, output=_OUTPUT.value, instances=_INSTANCES.value,
        cell_radius=_RADIUS.value, baselines=tuple(_BASELINES.value),
        foreground=_FOREGROUND.value, classes=_CLASSES.value, task=_TASK.value,
        ignore_label=_IGNORE_LABEL.value,
        voxel_size_nm=_VOXEL_SIZE.value, dataset=_DATASET.value,
        label_dataset=_LABEL_DATASET.value,
    )  # fmt: skip
    for path in evaluate(request, tell=print):
        print(path)


if __name__ == '__main__':
    run_main(main)
