"""Segment tomograms with a trained network: labels on the grid of each file."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.atomic import check_writable, remove_abandoned
from sxt_jax.core.devices import compute_dtype, make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity, NormalisedArray, measure_affine
from sxt_jax.inference import (
    Finish,
    add_classes,
    clean,
    fill,
    keep_classes,
    make_apply_fn,
    mirrored,
    predict_slabs,
    predict_volume,
)
from sxt_jax.io import (
    SUFFIXES,
    WRITABLE_SUFFIXES,
    list_volumes,
    open_volume,
    open_writer,
    split_dataset,
    without_labels,
    write_volume,
)
from sxt_jax.models import build_model
from sxt_jax.ops.resample import resize_rows, resize_slabs
from sxt_jax.training.checkpoint import best_checkpoint
from sxt_jax.training.loop import SCORE

_WITH_CHANNELS = ('.tif', '.tiff', '.h5', '.hdf5', '.npy', '.zarr')
_SLAB_DEPTH = 32
_VOXEL_SIZE_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained network with its conventions.

    Attributes:
      apply_fn: (variables, tiles) → heads, one of them 'probs'.
      variables: of the network.
      classes: what its channels mean.
      intensity: what gray values it expects.
      n_channels: of its images.
      working_shape: grid it works on; None: each file's own.
      tiling: tile, overlap, blend, batch_size.
      voxel_size_nm: of the training data's grid, if known.
      device_mesh: the devices.
    """

    apply_fn: Callable[..., Any]
    variables: Any
    classes: Classes
    intensity: Intensity
    n_channels: int
    working_shape: tuple[int, int, int] | None
    tiling: dict[str, Any]
    voxel_size_nm: tuple[float, float, float] | None
    device_mesh: Mesh


@dataclasses.dataclass(frozen=True)
class Options:
    """What is wanted of a segmentation.

    Attributes:
      probabilities: also write the probability of every class.
      mirror: axes ('zyx') over whose mirror images predictions are averaged.
      clean: objects smaller than this share of their class's largest are removed; 0: none.
      fill: holes smaller than this share of the object around them are filled; 0: none.
      skip_existing: leave results alone that are already there.
      dataset: name of the data set in HDF5 and OME-Zarr inputs.
    """

    probabilities: bool = False
    mirror: str = ''
    clean: float = 0.0
    fill: float = 0.0
    skip_existing: bool = False
    dataset: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input: its label file, or why there is none.

    Attributes:
      source: the input.
      labels: its label file.
      error: what went wrong; '' if nothing did.
      skipped: whether the label file was there already.
    """

    source: Path
    labels: Path
    error: str = ''
    skipped: bool = False


def segment_files(
    checkpoint: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    options: Options | None = None,
) -> list[Outcome]:
    """Segment a tomogram, or every tomogram of a folder.

    Args:
      checkpoint: workdir of a training run, or a folder of one checkpoint.
      source: a file or a folder; in a folder, labels that lie beside their images are left out.
      output: folder for the results, each named as its source.
      options: what is wanted besides labels.

    Returns:
      One outcome a source; a failure does not stop the others.

    Raises:
      InputError: no usable checkpoint, no source, or results would replace their sources.
    """
    options = options or Options()
    for name in ('clean', 'fill'):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(name, f'{getattr(options, name)}', 'a share of 0 … 1')
    sources = without_labels(list_volumes(source, dataset=options.dataset))
    output = Path(output)
    refuse_folder_of(sources, output)
    _check_targets(sources, output, options)
    check_writable(output)
    remove_abandoned(output)
    segmenter = load_segmenter(checkpoint, mirror=options.mirror)
    outcomes = []
    for path in progress_bar(sources, unit='file', desc='segmenting', disable=len(sources) < 2):
        target = label_path(path, output)
        try:
            skipped = options.skip_existing and _is_segmented(path, target, options)
            if not skipped:
                segment_file(segmenter, path, target, options=options)
            outcomes.append(Outcome(path, target, skipped=skipped))
        except Exception as error:  # one bad file must not cost the others
            logging.error('%s', error if isinstance(error, InputError) else f'{path}: {error!r}')
            outcomes.append(Outcome(path, target, str(error) or repr(error)))
    return outcomes


def refuse_folder_of(inputs: Sequence[Path], output: str | Path) -> None:
    """Results, named as their inputs, must not lie in a folder of the inputs.

    Raises:
      InputError: they would.
    """
    if Path(output).resolve() in {split_dataset(path)[0].resolve().parent for path in inputs}:
        raise InputError(output, 'a folder of the inputs', 'another folder for the results')


def _check_targets(sources: Sequence[Path], output: Path, options: Options) -> None:
    """No result may replace another."""
    taken: dict[Path, Path] = {}
    for path in sources:
        for target in _result_paths(label_path(path, output), options):
            other = taken.setdefault(target, path)
            if other != path:
                found = f'its {target.name} would replace that of {other}'
                raise InputError(path, found, 'other names')


def _result_paths(target: Path, options: Options) -> list[Path]:
    """The files that a segmentation writes."""
    return [target, probability_path(target)] if options.probabilities else [target]


def _is_segmented(source: Path, target: Path, options: Options) -> bool:
    """Whether intact results of the source's shape are there."""
    wanted = _result_paths(target, options)
    if not all(path.exists() for path in wanted):
        return False
    try:
        shape = open_volume(source).shape
        return all(open_volume(path).shape == shape for path in wanted)
    except InputError:
        return False


def load_segmenter(checkpoint: str | Path, *, mirror: str = '') -> Segmenter:
    """The best intact checkpoint of a run, ready to use on all devices.

    Raises:
      InputError: no intact checkpoint, or one of a network that does not segment classes.
    """
    found = best_checkpoint(checkpoint, metric=SCORE)
    facts = found.description
    logging.info('Using %s', found.path)
    dtype = compute_dtype(facts['config']['compute_dtype'])
    model = build_model({**facts['model'], 'dtype': dtype})
    if model.head_activations.get('logits') != 'softmax':
        raise InputError(found.path, f'a network {facts["model"]["name"]}', 'one that segments')
    saved = found.restore()
    variables = {'params': saved['params']}
    if saved.get('batch_stats'):
        variables['batch_stats'] = saved['batch_stats']
    apply_fn = make_apply_fn(model)
    working_shape, voxel_size = facts['working_shape'], facts['voxel_size_nm']
    return Segmenter(
        apply_fn=mirrored(apply_fn, axes=mirror) if mirror else apply_fn,
        variables=variables,
        classes=Classes.from_dict(facts['classes']),
        intensity=Intensity.from_dict(facts['intensity']),
        n_channels=facts['n_channels'],
        working_shape=tuple(working_shape) if working_shape else None,
        tiling=dict(facts['tiling']),
        voxel_size_nm=tuple(voxel_size) if voxel_size else None,
        device_mesh=make_device_mesh(),
    )


def label_path(source: Path, output: Path) -> Path:
    """Where the labels of a source go: its name, in its format if that can be written."""
    source, _ = split_dataset(source)
    suffix = source.suffix.lower()
    if suffix in WRITABLE_SUFFIXES:
        return output / source.name
    return output / f'{source.stem if suffix in SUFFIXES else source.name}.tif'


def segment_file(
    segmenter: Segmenter, source: Path, target: Path, *, options: Options | None = None
) -> None:
    """Write the labels of one tomogram; nothing is left at `target` if anything goes wrong.

    Raises:
      InputError: the file is no volume, has other channels, NaN voxels or no contrast; the
        result cannot be written.
    """
    options = options or Options()
    image = open_volume(source)
    _check_image(segmenter, image, source)
    with contextlib.ExitStack() as stack:
        values = segmenter.classes.labels(np.arange(len(segmenter.classes)))
        labels = stack.enter_context(_label_writer(target, image, values.dtype, segmenter, options))
        probabilities = None
        if options.probabilities:
            probabilities = stack.enter_context(
                open_writer(
                    probability_path(target),
                    shape=(*image.shape, len(segmenter.classes)),
                    dtype=np.float32,
                    axes='zyxc',
                    voxel_size_nm=image.voxel_size_nm,
                )
            )
        finish = add_classes if options.probabilities else keep_classes
        for z, heads in _predict(segmenter, image, name=str(source), finish=finish):
            labels(z, values[heads['classes']])
            if probabilities is not None:
                probabilities.write(z, heads['probs'])


def probability_path(target: Path) -> Path:
    """Where probabilities go that belong to a label file."""
    if target.suffix.lower() in _WITH_CHANNELS:
        return target.with_name(f'{target.stem}.probabilities{target.suffix}')
    return target.with_name(f'{target.name}.probabilities.h5')  # a.mrc and a.rec stay apart


def _predict(
    segmenter: Segmenter, image: Volume, *, name: str, finish: Finish
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """First slice and finished heads of consecutive slabs of the image's own grid."""
    run = {**segmenter.tiling, 'device_mesh': segmenter.device_mesh}
    with progress_bar(
        total=image.shape[0], unit='slice', desc=split_dataset(name)[0].name, inner=True
    ) as bar:
        if segmenter.working_shape is None:
            affine = measure_affine(segmenter.intensity, image.data, name=name)
            seen = NormalisedArray(image.data, affine)
            for slab in predict_slabs(
                segmenter.apply_fn, segmenter.variables, seen, finish=finish, **run
            ):
                yield slab.z_start, slab.heads
                bar.update(slab.z_stop - slab.z_start)
            return
        gray = _on_working_grid(segmenter, image, name)
        probs = predict_volume(segmenter.apply_fn, segmenter.variables, gray, **run)['probs']
        on_device = jnp.asarray(probs)
        for z in range(0, image.shape[0], _SLAB_DEPTH):
            stop = min(z + _SLAB_DEPTH, image.shape[0])
            rows = resize_rows(on_device, image.shape, z, stop)
            yield z, jax.device_get(finish({'probs': rows}))
            bar.update(stop - z)


def _on_working_grid(segmenter: Segmenter, image: Volume, name: str) -> np.ndarray:
    measure_affine(Intensity(), image.data, name=name)  # NaNs must not spread by resizing
    assert segmenter.working_shape is not None
    gray = resize_slabs(image.data, segmenter.working_shape)
    return measure_affine(segmenter.intensity, gray, name=name).apply(gray)


def _check_image(segmenter: Segmenter, image: Volume, source: Path) -> None:
    if image.n_channels != segmenter.n_channels:
        raise InputError(
            source, f'{image.n_channels} channels', f'{segmenter.n_channels} as in training'
        )
    trained, given = segmenter.voxel_size_nm, image.voxel_size_nm
    if trained is None or given is None or segmenter.working_shape is not None:
        return
    ratio = np.array(given) / np.array(trained)
    if np.any(np.abs(ratio - 1) > _VOXEL_SIZE_TOLERANCE):
        logging.warning(
            '%s: voxels of %s nm, the network was trained on %s nm', source, given, trained
        )


@contextlib.contextmanager
def _label_writer(
    target: Path, image: Volume, dtype: np.dtype, segmenter: Segmenter, options: Options
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """A function that takes slabs of labels, slab by slab to the file where nothing is left to do.

    Cleaning and filling look at whole objects, so they need the whole label volume in memory.
    """
    names = segmenter.classes.value_names
    if not (options.clean or options.fill):
        with open_writer(
            target,
            shape=image.shape,
            dtype=dtype,
            voxel_size_nm=image.voxel_size_nm,
            class_names=names,
        ) as writer:
            yield writer.write
        return
    labels = np.zeros(image.shape, dtype)

    def keep(z: int, slab: np.ndarray) -> None:
        labels[z : z + len(slab)] = slab

    yield keep
    if options.clean:
        labels = clean(labels, options.clean)
    if options.fill:
        labels = fill(labels, options.fill)
    write_volume(target, Volume(labels, image.voxel_size_nm, class_names=names))
