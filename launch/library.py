"""List a library of cells: which materials each was labelled with, and which serve a task.

    python -m launch.library --root=DIR
    python -m launch.library --root=DIR --task='nucleus=nucleus+euchromatin,lipid=lipid'
    python -m launch.library --root=DIR --task=TASK --task=ANOTHER --output=cells.csv

A library is a folder, with folders within, of tomograms and their labels, paired as `launch.check`
pairs them. Names of label values come from X.labels.yaml or X.yaml beside the labels, else from the
labels (AmiraMesh materials, OME-Zarr, what this package writes), else from a materials.yaml in the
folder or above:

    materials: {nucleus: 1, mitochondria: [2, 5]}
    ignore: 255                                    # voxels that nobody labelled
    voxel_size_nm: [30, 30, 30]                    # z, y, x

`launch.train --config.data.train=DIR --config.data.task=TASK` trains on the cells that serve.
Status 2: a file that cannot be read, or a task that no cell serves.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from launch.common import EXIT_BAD_INPUT, run_main
from sxt_jax import io
from sxt_jax.core.progress import progress_bar
from sxt_jax.data.library import read_library
from sxt_jax.pipelines.list_library import format_library, library_columns, report_task

_ROOT = flags.DEFINE_string('root', None, 'Folder of the library.', required=True)
_LABELS = flags.DEFINE_string('labels', None, 'Folder of the labels, where they are elsewhere.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of images in HDF5 or OME-Zarr.')
_LABEL_DATASET = flags.DEFINE_string('label_dataset', None, 'Data set of labels, likewise.')
_TASK = flags.DEFINE_multi_string('task', [], 'Classes as groups of names; may be given again.')
_OUTPUT = flags.DEFINE_string('output', None, 'Write the table here as well (.csv or .json).')


def main(argv: Sequence[str]) -> int:
    del argv
    with progress_bar(unit='cell', inner=True) as bar:
        library = read_library(
            _ROOT.value, _LABELS.value, dataset=_DATASET.value,
            label_dataset=_LABEL_DATASET.value, on_cell=lambda _: bar.update(),
        )  # fmt: skip
    print(format_library(library))
    columns = library_columns(library)
    reports = [report_task(library, text) for text in _TASK.value]
    for report in reports:
        print(f'\n{report}')
        if report.columns:
            columns[report.text] = report.columns['serves']
    if _OUTPUT.value:
        io.write_table(_OUTPUT.value, columns)
    wrong = library.faults or any(report.errors for report in reports)
    return EXIT_BAD_INPUT if wrong else 0


if __name__ == '__main__':
    run_main(main)
