"""Published weights as a checkpoint, with the conventions under which they were trained."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import sxt_jax
from sxt_jax.core.atomic import check_writable, remove_abandoned
from sxt_jax.core.errors import InputError
from sxt_jax.data.classes import Classes, parse_classes
from sxt_jax.data.intensity import Intensity
from sxt_jax.models import model_config
from sxt_jax.models.pretrained import (
    Pretrained,
    load_biomedisa,
    load_cellpose2d,
    load_cellpose3d,
    load_deep_sxt,
    load_ncxt,
)
from sxt_jax.models.slicewise import side_multiple
from sxt_jax.training.checkpoint import list_checkpoints, open_checkpoint, save_checkpoint

_BIOMEDISA_STRIDE = 32  # of its predictions, unless asked otherwise
_NCXT_TILE = 64
_DTYPES = {
    'auto': 'bfloat16 on accelerators, else float32',
    'float32': 'float32',
    'bfloat16': 'bfloat16',
}
_MEMBRANE = Classes(('background', 'membrane'), (0, 1))  # what deep_sxt was published for


@dataclasses.dataclass(frozen=True)
class Options:
    """What files do not tell, or what is wanted otherwise.

    Attributes:
      config_json: the network's config, which deep_sxt writes beside the weights.
      classes: names of label values, such as 'cytoplasm=1,beads=2'; of deep_sxt, which finds one
        class, its name and the value that it gets, such as 'membrane=255'.
      voxel_size_nm: (z, y, x) of the training data.
      tile: (z, y, x) of the tiles in which volumes are predicted.
      overlap: of neighbouring tiles.
      compute_dtype: 'float32' as published, 'bfloat16', or 'auto': bfloat16 on accelerators.
    """

    config_json: str | Path | None = None
    classes: str = ''
    voxel_size_nm: Sequence[float] | None = None
    tile: Sequence[int] | None = None
    overlap: Sequence[int] | None = None
    compute_dtype: str = 'float32'


@dataclasses.dataclass(frozen=True)
class Imported:
    """A checkpoint made of published weights.

    Attributes:
      path: its workdir.
      description: what it tells of itself.
      n_parameters: numbers in it.
    """

    path: Path
    description: Mapping[str, Any]
    n_parameters: int


def import_weights(
    format: str, source: str | Path, output: str | Path, *, options: Options | None = None
) -> Imported:
    """Make a checkpoint of weights that others published.

    Args:
      format: one of `FORMATS`.
      source: the file.
      output: workdir for the checkpoint; new, empty, or that of an earlier import.
      options: what the file does not tell.

    Returns:
      The checkpoint, usable wherever one of a training run is.

    Raises:
      InputError: an unknown format, a file that is not of it, conventions that cannot be
        reproduced, or an output that holds something else. Nothing is written then.
    """
    options = options or Options()
    if format not in FORMATS:
        raise InputError('format', repr(format), f'one of {", ".join(FORMATS)}')
    if options.config_json is not None and format != 'deep_sxt':
        raise InputError('config_json', f'given for {format}', 'only for deep_sxt')
    source, output = Path(source), Path(output)
    _check_output(output)
    load, conventions = FORMATS[format]
    pretrained = load(source, options)
    description = {
        **_describe(format, source, pretrained, options),
        **conventions(source, pretrained, options),
    }
    _check_tiling(description['tiling'], pretrained)
    check_writable(output)
    remove_abandoned(output / 'checkpoints')
    save_checkpoint(output, 0, pretrained.variables, description)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(pretrained.variables))
    return Imported(output, description, n_parameters)


def summarise(imported: Imported) -> str:
    """One line: network, size, what goes in and what comes out."""
    facts = imported.description
    n, shape, classes = facts['n_channels'], facts['working_shape'], facts['classes']
    heads = facts['conventions']['heads']
    return '; '.join([
        f'{facts["model"]["name"]} of {facts["imported"]["file"]}',
        f'{imported.n_parameters:,} parameters',
        f'{n} channel{"s" * (n != 1)}',
        f'volumes resized to {_sides(shape)}' if shape else 'volumes as they are',
        _tiles(facts),
        f'classes {Classes.from_dict(classes)}' if classes else f'heads {", ".join(heads)}',
        f'computes in {_DTYPES[facts["config"]["compute_dtype"]]}',
    ])  # fmt: skip


def _tiles(facts: Mapping[str, Any]) -> str:
    tile = facts['tiling']['tile']
    if 'label' in facts['conventions']['heads']:
        return f'slices whole, or in chunks of {_sides(tile[1:])}'
    return f'tiles of {_sides(tile)}'


def _sides(shape: Sequence[int]) -> str:
    return ' × '.join(map(str, shape))


def _describe(
    format: str, source: Path, pretrained: Pretrained, options: Options
) -> dict[str, Any]:
    """What is the same for all formats."""
    metadata = pretrained.metadata
    size = options.voxel_size_nm
    if size is not None and (len(size) != 3 or not all(0 < s < float('inf') for s in size)):
        raise InputError('voxel_size_nm', f'{list(size)}', 'three lengths z, y, x')
    if options.compute_dtype not in _DTYPES:
        raise InputError('compute_dtype', options.compute_dtype, f'one of {", ".join(_DTYPES)}')
    return {
        'description': f'{source.name}, imported from {format} ({metadata["paper"]})',
        'model': model_config(pretrained.model),
        'n_channels': metadata['n_channels'],
        'classes': None,
        'volumes': {'train': [], 'validation': []},
        'working_shape': None,
        'voxel_size_nm': None if size is None else [float(s) for s in size],
        'config': {'compute_dtype': options.compute_dtype},
        'version': sxt_jax.__version__,
        'imported': {'format': format, 'file': source.name, 'sha256': _digest(source)},
        'conventions': metadata,
        'history': [],
        'pending': {},
    }


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _check_output(output: Path) -> None:
    """Only an earlier import may be replaced."""
    if not output.exists():
        return
    names = {path.name for path in output.iterdir()} if output.is_dir() else {''}
    checkpoints = list_checkpoints(output)
    if names <= {'checkpoints'} and all(
        'imported' in open_checkpoint(path).description for path in checkpoints
    ):
        return
    raise InputError(output, 'holds something else than an earlier import', 'a new folder')


def _check_tiling(tiling: Mapping[str, Any], pretrained: Pretrained) -> None:
    multiple = side_multiple(pretrained.model)
    tile, overlap = tiling['tile'], tiling['overlap']
    if len(tile) != 3 or any(t < 1 or t % m for t, m in zip(tile, multiple, strict=True)):
        raise InputError('tile', f'{tuple(tile)}', f'multiples of {multiple} (z, y, x)')
    if len(overlap) != 3 or not all(0 <= o < t for o, t in zip(overlap, tile, strict=True)):
        raise InputError('overlap', f'{tuple(overlap)}', f'three numbers below the tile {tile}')


def _tiling(
    options: Options, tile: Sequence[int], overlap: Sequence[int], blend: str
) -> dict[str, Any]:
    if options.tile is not None and options.overlap is None:
        # As large a part of the tile as it was of the published one.
        overlap = [n * o // t for n, o, t in zip(options.tile, overlap, tile, strict=False)]
    return {
        'tile': list(options.tile or tile),
        'overlap': list(overlap if options.overlap is None else options.overlap),
        'blend': blend,
        'batch_size': None,
    }


def _classes(source: Path, values: Sequence[int], options: Options) -> dict[str, Any]:
    """The classes of these label values, with the names that are given."""
    names = {v: 'background' if v == 0 else f'class {v}' for v in values}
    if options.classes:
        given = _given(options).value_names
        unknown = [v for v in given if v not in names and v != 0]
        if unknown:
            raise InputError('classes', f'value {unknown[0]}', f'those of {source}: {list(values)}')
        names.update({v: name for v, name in given.items() if v in names})
    return Classes(tuple(names.values()), tuple(names)).to_dict()


def _unnamed(options: Options) -> None:
    if options.classes:
        raise InputError('classes', 'given', 'none: this network tells no classes')


def _biomedisa(source: Path, pretrained: Pretrained, options: Options) -> dict[str, Any]:
    facts = pretrained.metadata
    if facts['separation']:
        found = 'a network that separates particles, which needs a mask of them'
        raise InputError(source, found, 'a network that segments classes')
    if facts['cropping']:
        found = 'a model with a second network that finds the region to segment'
        raise InputError(source, found, 'a model trained without cropping')
    if facts['normalise']:
        mean, std = tuple(facts['mean']), tuple(facts['std'])
        intensity = Intensity('reference', mean, std, clip=True)
    else:
        intensity = Intensity('none' if facts['patch_normalization'] else 'unit')
    patch = facts['patch_size']
    overlap = [max(0, side - _BIOMEDISA_STRIDE) for side in patch]
    return {
        'classes': _classes(source, facts['labels'], options),
        'intensity': intensity.to_dict(),
        'working_shape': facts['scale'] if facts['scaling'] else None,
        'tiling': {**_tiling(options, patch, overlap, 'constant'), 'align': 1},
        'resampling': 'opencv',
        'whole_tiles': True,
        'standardise_tiles': facts['patch_normalization'],
    }


def _ncxt(source: Path, pretrained: Pretrained, options: Options) -> dict[str, Any]:
    tile = [-(-_NCXT_TILE // n) * n for n in side_multiple(pretrained.model)]
    return {
        'classes': _classes(source, range(pretrained.model.n_labels), options),
        'intensity': Intensity('none').to_dict(),
        'tiling': _tiling(options, tile, [side // 2 for side in tile], 'distance'),
    }


def _given(options: Options) -> Classes:
    """The classes that the options name, one value each."""
    classes = parse_classes(options.classes)
    if classes.groups is not None:
        raise InputError('classes', repr(options.classes), 'one value a name')
    return classes


def _deep_sxt(source: Path, pretrained: Pretrained, options: Options) -> dict[str, Any]:
    classes = _given(options) if options.classes else _MEMBRANE
    if len(classes) != 2:
        raise InputError('classes', f'{classes}', f'one besides the background, as {source} has')
    facts = pretrained.metadata['conventions']
    stride, multiple = facts['inference_stride'], side_multiple(pretrained.model)[1]
    side = facts['inference_tile'] // multiple * multiple
    return {
        'classes': classes.to_dict(),
        'intensity': Intensity('slice').to_dict(),
        'tiling': _tiling(options, [1, side, side], [0, side - stride, side - stride], 'cosine'),
    }


def _cellpose3d(source: Path, pretrained: Pretrained, options: Options) -> dict[str, Any]:
    _unnamed(options)
    facts = pretrained.metadata
    return {
        'intensity': Intensity('percentile', clip=True).to_dict(),
        'tiling': _tiling(options, facts['patch'], facts['overlap'], facts['blend']),
    }


def _cellpose2d(source: Path, pretrained: Pretrained, options: Options) -> dict[str, Any]:
    _unnamed(options)
    gray = pretrained.metadata['intensity']
    percentiles = gray['low_percent'], gray['high_percent']
    return {
        'intensity': Intensity('percentile', percentiles=percentiles).to_dict(),
        'tiling': _tiling(options, [1, 224, 224], [0, 22, 22], 'cosine'),
    }


def _load_deep_sxt(source: Path, options: Options) -> Pretrained:
    if options.config_json is None:
        raise InputError(source, 'no config_json', "the JSON config beside deep_sxt's weights")
    return load_deep_sxt(source, options.config_json)


_Load = Callable[[Path, Options], Pretrained]
_Conventions = Callable[[Path, Pretrained, Options], dict[str, Any]]

FORMATS: dict[str, tuple[_Load, _Conventions]] = {
    'biomedisa': (lambda source, _: load_biomedisa(source), _biomedisa),
    'deep_sxt': (_load_deep_sxt, _deep_sxt),
    'cellpose3d': (lambda source, _: load_cellpose3d(source), _cellpose3d),
    # Files of the NCXT hold absorption coefficients, which its own code multiplies by 100.
    'ncxt': (lambda source, _: load_ncxt(source, takes_lac=True), _ncxt),
    'cellpose2d': (lambda source, _: load_cellpose2d(source), _cellpose2d),
}
