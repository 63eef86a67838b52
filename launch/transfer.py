"""What do a few tomograms of another cell type bring, from scratch or by fine-tuning?

    python -m launch.transfer --config=configs/acseg.py --base=DIR --other=DIR \\
        --test_base=DIR --test_other=DIR --n=2,4,6 --start=scratch,finetune --repeats=3 --output=DIR

The folders hold tomograms with labels, of the type that there is much of and of another. For every
choice a network is trained and scored on both types, beside the base net that has seen none of the
other: scratch, base set and n others from fresh weights; finetune, the n others from the weights of
the base net; finetune_all, base set and others from these; alone, the n others from fresh weights.
Larger sets contain the smaller ones. The same command goes on where it stopped; choices and repeats
may be added. Prints and writes to DIR (transfer.csv, transfer.png, and scores.csv of each training
and tomogram) mean ± SD of the Dice on both types, and the change against the base net.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from launch.common import log_devices, run_main
from sxt_jax.core.errors import InputError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment to train.', lock_config=True)
_BASE = flags.DEFINE_string('base', None, 'Folder of the base set: tomograms with labels.')
_OTHER = flags.DEFINE_string('other', None, 'Folder of the other type, likewise.')
_TEST_BASE = flags.DEFINE_string('test_base', None, 'Folder of the base type to score on.')
_TEST_OTHER = flags.DEFINE_string('test_other', None, 'Folder of the other type to score on.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for tables, figure and trainings.')
_N = flags.DEFINE_list('n', ['2', '4', '6'], 'Numbers of tomograms of the other type.')
_START = flags.DEFINE_list('start', ['scratch', 'finetune'], 'Also: finetune_all, alone.')
_REPEATS = flags.DEFINE_integer('repeats', 1, 'Trainings of each choice, by other draws and seeds.')
_EPOCHS = flags.DEFINE_integer('finetune_epochs', 0, 'Of fine-tuning; 0: as the config.')
_RATE = flags.DEFINE_float('finetune_learning_rate', 0, 'Of fine-tuning; 0: as the config.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.transfer import Choices, Folders, measure_transfer
    from sxt_jax.pipelines.transfer_report import report_transfer, save_transfer, tabulate_transfer

    places = {flag.name: flag.value or '' for flag in (_BASE, _OTHER, _TEST_BASE, _TEST_OTHER)}
    missing = [name for name, value in places.items() if not value]
    if missing or _CONFIG.value is None or not _OUTPUT.value:
        expected = f'--config, --output, {", ".join(f"--{name}" for name in places)}'
        raise InputError('command line', 'a flag is missing', expected)
    if not all(text.isdecimal() for text in _N.value):
        raise InputError('--n', repr(','.join(_N.value)), 'whole numbers')
    choices = Choices(
        n_other=[int(text) for text in _N.value],
        starts=_START.value,
        repeats=_REPEATS.value,
        finetune_epochs=_EPOCHS.value,
        finetune_learning_rate=_RATE.value,
    )
    log_devices()
    scores = measure_transfer(_CONFIG.value, Folders(**places), _OUTPUT.value, choices=choices)
    table = tabulate_transfer(scores)
    print(report_transfer(table))
    for path in save_transfer(scores, table, _OUTPUT.value):
        print(path)


if __name__ == '__main__':
    run_main(main)
