"""A trained network as one StableHLO file that runs without this package.

The file is what `jax.export` serialises: the network of one tile shape in inference mode, its
weights baked in, so that nothing can be paired with the wrong weights. It says nothing of gray
values and classes; those conventions are written beside it as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax import export

import sxt_jax
from sxt_jax.core.atomic import atomic_path, check_writable, write_text
from sxt_jax.core.errors import InputError
from sxt_jax.inference.apply import ApplyFn
from sxt_jax.models.slicewise import input_shape, side_multiple, takes_slices
from sxt_jax.pipelines.trained_network import load_network

KNOWN_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
PLATFORMS = ('cpu', 'cuda', 'tpu')
_CARRIED = (
    'description',
    'step',
    'model',
    'n_channels',
    'n_gray',  # of a later stage of a cascade: the first channels; probabilities follow
    'classes',
    'intensity',
    'working_shape',
    'binning',
    'voxel_size_nm',
    'resampling',
    'whole_tiles',
    'tiling',
    # Of imports: where they are from, and what their publication says of gray values and heads.
    'imported',
    'conventions',
)
_DIGEST = 'stablehlo_sha256'


def export_network(
    apply_fn: ApplyFn,
    variables: Any,
    *,
    input_shape: Sequence[int],
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """A network with its weights, as bytes for `jax.export.deserialize`.

    The program is for one device, whatever devices there are here, and computes in the network's
    own dtype; platforms need not be here either. Where an operation has a form for each platform,
    all that are asked for are in the program, and the one it runs on is chosen when it is compiled.

    Args:
      apply_fn: (variables, tiles [b, z, y, x, c]) → heads, such as `make_apply_fn` gives.
      variables: of it.
      input_shape: [b, z, y, x, c], or [b, y, x, c] of a 2-D network.
      platforms: some of `KNOWN_PLATFORMS`.

    Returns:
      The serialised function of tiles, float32 of that shape, to head name -> [b, (z,) y, x, k]
      float32; 'probs' instead of 'logits'.

    Raises:
      InputError: an unknown platform, or a shape the network does not take.
    """
    unknown = [name for name in platforms if name not in KNOWN_PLATFORMS]
    if unknown or not platforms or len(set(platforms)) < len(platforms):
        found = ','.join(platforms) or 'nothing'
        raise InputError('platforms', found, f'different ones of {", ".join(KNOWN_PLATFORMS)}')
    weights = jax.device_get(variables)  # as numpy arrays they are of no device

    def network(tiles: jax.Array) -> dict[str, jax.Array]:
        if len(input_shape) == 5:
            return apply_fn(weights, tiles)
        return {name: head[:, 0] for name, head in apply_fn(weights, tiles[:, None]).items()}

    tiles = jax.ShapeDtypeStruct(tuple(input_shape), 'float32')
    return bytes(export.export(jax.jit(network), platforms=tuple(platforms))(tiles).serialize())


def export_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    tile: Sequence[int] | None = None,
    batch_size: int = 1,
    platforms: Sequence[str] = PLATFORMS,
    dtype: str = 'float32',
) -> dict[str, Any]:
    """Write the best network of a run to `output`, and its conventions beside it as .json.

    Args:
      checkpoint: workdir of a training run, or a folder of one checkpoint.
      output: the file, such as model.stablehlo.
      tile: sides (z, y, x), or (y, x) of a 2-D network; None: those the run used.
      batch_size: tiles at once.
      platforms: some of `KNOWN_PLATFORMS`.
      dtype: 'float32' or 'bfloat16', in which the network computes; input and output are float32.

    Returns:
      The conventions, as written.

    Raises:
      InputError: no usable checkpoint, a tile the network does not take, an unknown platform or
        dtype, or `output` cannot be written.
    """
    output = Path(output)
    _check_output(output)
    if dtype not in ('float32', 'bfloat16'):
        raise InputError('dtype', repr(dtype), 'float32 or bfloat16')
    network = load_network(checkpoint, dtype=dtype)
    facts, model = network.facts, network.model
    sides = _tile(model, tile, facts)
    if batch_size < 1:
        raise InputError('batch_size', f'{batch_size}', 'a number from 1 on')
    shape = (batch_size, *input_shape(model, sides, facts['n_channels'])[1:])
    blob = export_network(
        network.apply_fn, network.variables, input_shape=shape, platforms=platforms
    )
    conventions = {**_conventions(blob, dtype), **{key: facts.get(key) for key in _CARRIED}}
    with atomic_path(output) as temporary:
        temporary.write_bytes(blob)
    write_text(conventions_path(output), json.dumps(conventions, indent=1) + '\n')
    return conventions


def conventions_path(output: Path) -> Path:
    """Where the conventions of an exported network are."""
    return output.with_suffix('.json')


def example(output: Path, conventions: dict[str, Any]) -> str:
    """Python that runs an exported network; it needs jax and flatbuffers only."""
    name, head = next(iter(conventions['heads'].items()))
    shape = tuple(conventions['input']['shape'])
    return f"""\
import jax, jax.export, numpy as np
file = open({str(output)!r}, 'rb')
network = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
tiles = np.zeros({shape}, np.float32)  # [{conventions['input']['axes']}], normalised
{name} = network(tiles)[{name!r}]  # {tuple(head['shape'])}"""


def _check_output(output: Path) -> None:
    """Before any work: both files can be written, and replace nothing but an earlier export."""
    if not output.name:
        raise InputError('output', f'{str(output)!r}', 'a file, as model.stablehlo')
    beside = conventions_path(output)
    if output == beside:
        raise InputError(output, 'the name of the conventions', 'another suffix, as .stablehlo')
    for path in (output, beside):
        if path.is_dir():
            raise InputError(path, 'a folder', 'a file, as model.stablehlo')
    is_export = beside.exists() and _is_export(beside)
    for path in (beside, output):
        if path.exists() and not is_export:
            raise InputError(path, 'is there, and is no export', f'another name than {output.name}')
    check_writable(output.parent)


def _is_export(path: Path) -> bool:
    try:
        return _DIGEST in json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, TypeError):
        return False


def _tile(model: nn.Module, tile: Sequence[int] | None, facts: Any) -> tuple[int, int, int]:
    """Sides (z, y, x) of a tile that the network takes; a 2-D network's has one slice."""
    n_dims = 2 if takes_slices(model) else 3
    axes, multiple = 'zyx'[-n_dims:], side_multiple(model)
    if tile is None:
        used = (facts.get('tiling') or {}).get('tile')
        if used is None:
            raise InputError('tile', 'the checkpoint names none', f'({", ".join(axes)})')
        tile = ((used,) * 3 if isinstance(used, int) else tuple(used))[-n_dims:]
    least = multiple[-n_dims:]
    if len(tile) != n_dims or any(n < 1 or n % m for n, m in zip(tile, least, strict=True)):
        expected = f'({", ".join(axes)}), multiples of {" × ".join(map(str, least))}'
        raise InputError('tile', f'{tuple(tile)}', expected)
    z, y, x = (1,) * (3 - n_dims) + tuple(tile)
    return z, y, x


def _conventions(blob: bytes, dtype: str) -> dict[str, Any]:
    """What the file itself says, read back."""
    exported = export.deserialize(bytearray(blob))
    (tiles,) = exported.in_avals
    heads = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    axes = 'bzyxc' if tiles.ndim == 5 else 'byxc'
    return {
        'input': {'axes': axes, 'shape': list(tiles.shape), 'dtype': str(tiles.dtype)},
        'heads': {
            name: {'axes': axes, 'shape': list(head.shape), 'dtype': str(head.dtype)}
            for name, head in heads.items()
        },
        'compute_dtype': dtype,
        'platforms': list(exported.platforms),
        'calling_convention_version': exported.calling_convention_version,
        'jax': jax.__version__,
        'sxt_jax': sxt_jax.__version__,
        _DIGEST: hashlib.sha256(blob).hexdigest(),
    }
