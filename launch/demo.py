"""The whole job on simulated data: simulate, train, segment, score, measure and draw.

    python -m launch.demo

Needs no data and no accelerator, and takes a few minutes on two CPU cores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from launch.common import log_devices, run_main

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Experiment; default: configs/demo.py.')
_OUTPUT = flags.DEFINE_string('output', 'demo_output', 'Folder for the results.')


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.demonstrate import demonstrate

    log_devices()
    start = time.monotonic()
    result = demonstrate(_CONFIG.value, _OUTPUT.value)
    print()
    for what, path in result.files.items():
        print(f'{what + ":":22}{path}')
    print(', '.join(f'Dice of {name}: {dice:.3f}' for name, dice in result.dice.items()))
    print(f'done in {time.monotonic() - start:.0f} s')


if __name__ == '__main__':
    run_main(main, default_config='configs/demo.py')
