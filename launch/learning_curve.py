"""How many tomograms does a target Dice need? Fit 1 − b·exp(−a·x) to scores, or measure them first.

    python -m launch.learning_curve --scores=FILE.csv --target=0.95 --output=DIR
    python -m launch.learning_curve --config=configs/acseg.py --config.data.train=DIR \\
        --sizes=2,4,8 --repeats=3 --test=DIR --target=0.95 --output=DIR

FILE.csv has the columns n_tomograms and dice, and perhaps class, method, repeat, name (of the test
tomogram) and sd (by which the fit is weighted). With --config the network is trained on that many
of the pairs, larger sets containing the smaller ones, and scored on those of --test; the same
command goes on where it stopped. Prints and writes to DIR (learning_curve.csv, learning_curve.png)
the number of tomograms for each class and method, with a 95 % profile-likelihood interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from launch.common import log_devices, run_main
from sxt_jax.core.errors import InputError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment to train.', lock_config=True)
_SCORES = flags.DEFINE_string('scores', None, 'Table of scores, instead of trainings.')
_TARGET = flags.DEFINE_list('target', ['0.95'], 'Dice to be reached; several: 0.9,0.95.')
_SIZES = flags.DEFINE_list('sizes', [], 'Numbers of tomograms to train on: 2,4,8.')
_REPEATS = flags.DEFINE_integer('repeats', 1, 'Trainings of each size, on other tomograms.')
_TEST = flags.DEFINE_string('test', None, 'Folder of tomograms with labels to score on.')
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for tables, figure and trainings.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines import learning_curve_fit as fit
    from sxt_jax.pipelines.learning_curve import measure_scores

    if not _OUTPUT.value or bool(_SCORES.value) == (_CONFIG.value is not None):
        expected = '--output=DIR, and --scores=FILE or --config=FILE'
        raise InputError('command line', 'what is to be done is not clear', expected)
    targets = _numbers('target', _TARGET.value, float)
    fit.check_targets(targets)
    if _SCORES.value:
        table = fit.read_scores(_SCORES.value)
    elif not _TEST.value:
        raise InputError('command line', 'no --test', 'a folder of tomograms with labels')
    else:
        sizes = _numbers('sizes', _SIZES.value, int)
        log_devices()
        table = measure_scores(
            _CONFIG.value, _TEST.value, _OUTPUT.value, sizes=sizes, repeats=_REPEATS.value
        )
    points = fit.average_tomograms(table)
    fits = fit.fit_curves(points, targets=targets)
    print(fit.report(points, fits))
    for path in fit.save_curves(points, fits, _OUTPUT.value):
        print(path)
    fit.check_reached(fits)


def _numbers(flag: str, texts: Sequence[str], kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(text) for text in texts]
    except ValueError as error:
        raise InputError(f'--{flag}', repr(','.join(texts)), 'numbers') from error


if __name__ == '__main__':
    run_main(main)
