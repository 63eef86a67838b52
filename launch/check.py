"""Look over a data set or a file: what is in it, and everything that is wrong with it.

    python -m launch.check --input=DATA                      # a file, a folder, a folder of pairs
    python -m launch.check --input=IMAGES --labels=LABELS --n_classes=3 --output=report.csv
    python -m launch.check --input=DATA --instances          # labels are ids of cells

A folder in which images find their labels (`images/` and `labels/`, `imagesTr/` and `labelsTr/`,
`X.tif` and `X.labels.tif`, …) is checked as training data. Status 0: no errors, 2: errors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.common import EXIT_BAD_INPUT, run_main
from sxt_jax import io
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.pipelines.check_data import check_pairs, check_volumes

_INPUT = flags.DEFINE_string('input', None, 'Volume, folder of volumes or of pairs.', required=True)
_LABELS = flags.DEFINE_string('labels', None, 'Label volume, or folder of label volumes.')
_DATASET = flags.DEFINE_string('dataset', None, 'Data set of images in HDF5 or OME-Zarr.')
_LABEL_DATASET = flags.DEFINE_string('label_dataset', None, 'Data set of labels, likewise.')
_N_CLASSES = flags.DEFINE_integer('n_classes', None, 'Classes with background: values are below.')
_INSTANCES = flags.DEFINE_boolean('instances', False, 'Labels are ids of cells, not classes.')
_IGNORE = flags.DEFINE_integer('ignore_label', None, 'Label value of unlabelled voxels.')
_PATCH = flags.DEFINE_list('patch', None, 'Patch z,y,x that volumes should hold.')
_ISOTROPIC = flags.DEFINE_boolean('isotropic', False, 'Warn of voxels that are not cubic.')
_OUTPUT = flags.DEFINE_string('output', None, 'Write the table here as well (.csv or .json).')


def _patch() -> list[int] | None:
    if _PATCH.value is None:
        return None
    if len(_PATCH.value) != 3 or not all(re.fullmatch('0*[1-9][0-9]*', n) for n in _PATCH.value):
        raise InputError('--patch', ','.join(_PATCH.value) or 'nothing', 'three integers from 1 on')
    return [int(n) for n in _PATCH.value]


def main(argv: Sequence[str]) -> int:
    del argv
    if _N_CLASSES.value is not None and (_N_CLASSES.value < 1 or _INSTANCES.value):
        raise InputError('--n_classes', str(_N_CLASSES.value), 'from 1 on, without --instances')
    datasets = {'dataset': _DATASET.value, 'label_dataset': _LABEL_DATASET.value}
    patch = _patch()
    with progress_bar(unit='file', inner=True) as bar:
        common: dict[str, Any] = {
            'dataset': _DATASET.value,
            'patch': patch,
            'isotropic': _ISOTROPIC.value,
            'on_file': lambda _: bar.update(),
        }
        if _LABELS.value is not None or io.holds_pairs(_INPUT.value, **datasets):
            report = check_pairs(
                _INPUT.value, _LABELS.value, label_dataset=_LABEL_DATASET.value,
                n_classes=_N_CLASSES.value, ignore_label=_IGNORE.value,
                instances=_INSTANCES.value, **common,
            )  # fmt: skip
        elif _INSTANCES.value:
            raise InputError('--instances', f'no labels in {_INPUT.value}', '--labels with it')
        else:
            report = check_volumes(_INPUT.value, **common)
    if report.entries:
        print(report.format_table())
    for problem in report.problems:
        print(problem)
    print(report.summary)
    if _OUTPUT.value:
        io.write_table(_OUTPUT.value, report.columns)
    return EXIT_BAD_INPUT if report.errors else 0


if __name__ == '__main__':
    run_main(main)
