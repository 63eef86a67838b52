r"""Make a checkpoint of published weights.

    python -m launch.import_weights --format=biomedisa --input=model.h5 --output=W
    python -m launch.import_weights --format=deep_sxt --input=weights.h5 \
        --config_json=config.json --output=W
    python -m launch.import_weights --format=cellpose3d --input=model.ckpt --output=W

W is used like the workdir of a training run: `launch.segment` and `launch.evaluate` apply it,
`launch.export` writes it as one file, and training starts from its weights with
--config.initial.checkpoint=W. A model of Biomedisa gives the labels that Biomedisa gives; deep_sxt
finds 'membrane=1', or what --classes says. It all computes in float32, as published:
--compute_dtype=auto takes bfloat16 on accelerators. Weights saved by PyTorch before 1.6 take
`pip install 'sxt_jax[torch]'`, newer ones do not.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from absl import flags

from launch.common import run_main
from sxt_jax.core.errors import InputError

_FORMAT = flags.DEFINE_string(
    'format', None, 'biomedisa, deep_sxt, cellpose3d, ncxt or cellpose2d.', required=True
)
_INPUT = flags.DEFINE_string('input', None, 'The file of weights.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder for the checkpoint.', required=True)
_CONFIG_JSON = flags.DEFINE_string('config_json', None, 'Config of the network (deep_sxt).')
_CLASSES = flags.DEFINE_string('classes', '', "Names of labels: 'cytoplasm=1,beads=2'.")
_VOXEL_SIZE = flags.DEFINE_list('voxel_size_nm', None, 'z,y,x of the training data.')
_TILE = flags.DEFINE_list('tile', None, 'Sides z,y,x of tiles; by default as published.')
_OVERLAP = flags.DEFINE_list('overlap', None, 'Overlap z,y,x of tiles; by default as published.')
_DTYPE = flags.DEFINE_enum(
    'compute_dtype',
    'float32',
    ['float32', 'bfloat16', 'auto'],
    'float32 as published; auto: bfloat16, which is faster, on accelerators.',
)


def _numbers(name: str, values: Sequence[str] | None, kind: type) -> list | None:
    try:
        numbers = None if values is None else [kind(value) for value in values]
    except ValueError:
        numbers = []
    if numbers is not None and len(numbers) != 3:
        raise InputError(f'--{name}', ','.join(values or ()) or 'nothing', 'three numbers z,y,x')
    return numbers


def main(argv: Sequence[str]) -> None:
    del argv
    from sxt_jax.pipelines.import_weights import Options, import_weights, summarise

    options = Options(
        config_json=_CONFIG_JSON.value,
        classes=_CLASSES.value,
        voxel_size_nm=_numbers('voxel_size_nm', _VOXEL_SIZE.value, float),
        tile=_numbers('tile', _TILE.value, int),
        overlap=_numbers('overlap', _OVERLAP.value, int),
        compute_dtype=_DTYPE.value,
    )
    imported = import_weights(_FORMAT.value, _INPUT.value, _OUTPUT.value, options=options)
    print(summarise(imported))
    checkpoint = shlex.quote(f'--checkpoint={imported.path}')
    cells = '' if imported.description['classes'] else ' --instances --cell_radius=VOXELS'
    flags = f'{checkpoint} --input=TOMOGRAMS --output=FOLDER{cells}'
    print(f'next: python -m launch.segment {flags}')


if __name__ == '__main__':
    run_main(main)
