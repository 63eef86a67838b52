"""Train a network on a folder of tomogram/label pairs.

    python -m launch.train --config=configs/acseg.py --workdir=W --config.data.train=DIR

DIR holds tomograms with labels; some networks learn from others without labels as well
(configs/deep_sxt.py). The data are checked first. The same command goes on where an interrupted run
stopped. W gets checkpoints/ (the best by validation Dice and the newest), metrics.jsonl,
tensorboard/ and curves.png. Any field of the config is changed on the command line:
--config.epochs=50.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from launch.common import log_devices, run_main
from sxt_jax.core.errors import InputError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_DETERMINISTIC = flags.DEFINE_boolean(
    'deterministic', False, 'On a GPU: only operations that give the same bits every time.'
)


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.train_network import plot_curves, train_network

    if _CONFIG.value is None or not _WORKDIR.value:
        raise InputError('command line', 'a flag is missing', '--config=FILE and --workdir=DIR')
    if _DETERMINISTIC.value:  # before the devices are first asked for
        given = os.environ.get('XLA_FLAGS', '')
        os.environ['XLA_FLAGS'] = f'{given} --xla_gpu_deterministic_ops=true'
    log_devices()
    best = train_network(_CONFIG.value, _WORKDIR.value)
    curves = plot_curves(_WORKDIR.value)
    print(f'best checkpoint: {best.path}\nlearning curves: {curves}')


if __name__ == '__main__':
    run_main(main)
