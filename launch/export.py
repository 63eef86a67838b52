"""Write a trained network to a file that runs without this package.

    python -m launch.export --checkpoint=W --output=model.stablehlo
    python -m launch.export --checkpoint=W --output=model.stablehlo --tile=64,128,128

The file holds the network for tiles of one shape, weights included; `model.json` beside it says
how gray values are normalised and what the channels of the result mean. It takes only
`pip install jax flatbuffers` to run:

    import jax, jax.export, numpy as np
    file = open('model.stablehlo', 'rb')
    network = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
    tiles = np.zeros((1, 64, 64, 64, 1), np.float32)  # [bzyxc], normalised
    probs = network(tiles)['probs']  # (1, 64, 64, 64, 2)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.common import run_main
from sxt_jax.core.errors import InputError

_CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'Workdir of a training run.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'The file, as model.stablehlo.', required=True)
_TILE = flags.DEFINE_list('tile', None, 'Sides z,y,x of a tile (y,x in 2-D); that of the run.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 1, 'Tiles at once.')
_PLATFORMS = flags.DEFINE_list('platforms', 'cpu,cuda,tpu', 'Where it runs; also rocm.')
_DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'What it computes in.')


def _tile() -> list[int] | None:
    if _TILE.value is None:
        return None
    if not _TILE.value or not all(re.fullmatch('[0-9]+', n) for n in _TILE.value):
        raise InputError('--tile', ','.join(_TILE.value) or 'nothing', 'integers z,y,x or y,x')
    return [int(n) for n in _TILE.value]


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.export_network import conventions_path, example, export_checkpoint

    output = Path(_OUTPUT.value)
    conventions = export_checkpoint(
        _CHECKPOINT.value,
        output,
        tile=_tile(),
        batch_size=_BATCH_SIZE.value,
        platforms=_PLATFORMS.value,
        dtype=_DTYPE.value,
    )
    print(f'{output} ({output.stat().st_size / 1e6:.3g} MB), {conventions_path(output)}\n')
    print(example(output, conventions))


if __name__ == '__main__':
    run_main(main)
