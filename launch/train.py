"""Train a network on a folder of tomogram/label pairs.

    python -m launch.train --config=configs/acseg.py --workdir=W --config.data.train=DIR

DIR holds tomograms with labels; some networks learn from others without labels as well
(configs/deep_sxt.py). The data are checked first. The same command goes on where an interrupted run
stopped. W gets checkpoints/ (the best by validation Dice and the newest), metrics.jsonl,
tensorboard/ and curves.png; of a cascade (configs/cascade.py) W/checkpoints/ holds all stages, and
each has such a folder W/<stage>/. Any field of the config is changed on the command line:
--config.epochs=50. With --multiprocess, or --coordinator_address, --num_processes and --process_id,
this is one process of several that train one network (README, Several processes).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from launch.common import is_first_process, log_devices, run_main
from sxt_jax.core.errors import InputError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment.', lock_config=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
_DETERMINISTIC = flags.DEFINE_boolean(
    'deterministic', False, 'On a GPU: only operations that give the same bits every time.'
)


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.train_cascade import list_runs, train_experiment
    from sxt_jax.pipelines.train_network import plot_curves

    if _CONFIG.value is None or not _WORKDIR.value:
        raise InputError('command line', 'a flag is missing', '--config=FILE and --workdir=DIR')
    if _DETERMINISTIC.value:  # before the devices are first asked for
        given = os.environ.get('XLA_FLAGS', '')
        os.environ['XLA_FLAGS'] = f'{given} --xla_gpu_deterministic_ops=true'
    log_devices()
    best = train_experiment(_CONFIG.value, _WORKDIR.value)
    if not is_first_process():
        return
    print(f'best checkpoint: {best.path}')
    for run in list_runs(_WORKDIR.value):
        print(f'learning curves: {plot_curves(run)}')


if __name__ == '__main__':
    run_main(main, several_processes=True)
