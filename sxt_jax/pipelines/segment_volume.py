"""Segment tomograms with trained networks: labels or instances on the grid of each file."""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from absl import logging

from sxt_jax.core.atomic import remove_abandoned
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import ALONE, Team, check_same, everyone
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import Volume
from sxt_jax.data.classes import Classes
from sxt_jax.inference import add_classes, keep_classes, tidy
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
from sxt_jax.pipelines.ensemble import (
    Ensemble,
    join_members,
    list_checkpoints,
    members_of,
    predict_classes,
)
from sxt_jax.pipelines.retile import retile
from sxt_jax.pipelines.segment_instances import write_instances
from sxt_jax.pipelines.segmenter import Segmenter, load_segmenter
from sxt_jax.pipelines.several_processes import (
    check_shareable,
    is_done_together,
    make_shared_folder,
)
from sxt_jax.pipelines.share import Share

_WITH_CHANNELS = ('.tif', '.tiff', '.h5', '.hdf5', '.npy', '.zarr')
_WITHOUT_NAMES = 'MRC'  # the one format that keeps no names of classes
_VOXEL_SIZE_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Options:
    """What is wanted of a segmentation.

    Attributes:
      probabilities: also write the probability of every class; with `instances` the foreground and
        the flows; of the maps of cells [z, y, x, (mask, boundary)] as whole numbers 0 … 255.
      mirror: axes ('zyx') over whose mirror images predictions are averaged.
      rotate: whether they are averaged over the four quarter turns about z.
      tile: (z, y, x) sides of the tiles images are cut into; None: as the checkpoint has it, or of
        networks that give a label whole slices where they fit.
      overlap: (z, y, x) of neighbouring tiles; None: as large a part of the tile as the
        checkpoint's.
      blend: weights where tiles overlap ('constant', 'cosine', 'distance'); None: as the
        checkpoint has it.
      clean: objects smaller than this share of their class's largest are removed; 0: none.
      fill: holes smaller than this share of the object around them are filled; 0: none.
      skip_existing: leave results alone that are already there; one of the other kind, classes for
        instances or the reverse, is an error, which MRC files cannot show.
      dataset: name of the data set in HDF5 and OME-Zarr inputs.
      instances: cells one by one instead of classes, of a network that gives flows.
      cell_radius: typical radius of a cell, in voxels along x; with `instances` only.
    """

    probabilities: bool = False
    mirror: str = ''
    rotate: bool = False
    tile: Sequence[int] | None = None
    overlap: Sequence[int] | None = None
    blend: str | None = None
    clean: float = 0.0
    fill: float = 0.0
    skip_existing: bool = False
    dataset: str | None = None
    instances: bool = False
    cell_radius: float | None = None


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

    Where this is one of several processes, all of which call it, they share the work out: files, or
    the slices of each (`several_processes.is_done_together`). Each takes its own devices. The files
    are those that the first process finds; the output folder and the networks are those of all.

    Args:
      checkpoint: workdir of a training run, or a folder of one checkpoint; several as 'A,B,C':
        their probabilities are averaged.
      source: a file or a folder; in a folder, labels that lie beside their images are left out.
      output: folder for the results, each named as its source.
      options: what is wanted besides labels.

    Returns:
      One outcome a source, in every process; a failure does not stop the others.

    Raises:
      InputError: no usable checkpoint, no source, options that make no sense, or results would
        replace their sources; processes have other networks, or an output folder each.
      OutOfStep: processes do not do the same.
    """
    options = options or Options()
    check_options(options)
    team, output = everyone(), Path(output)

    def find() -> list[str]:
        return [str(path) for path in _find_sources(source, output, options)]

    # Each process might find others, and what is shared out must be the same.
    sources = [Path(path) for path in team.first(find, name='find tomograms')]
    targets = [label_path(path, output) for path in sources]
    in_pieces = not (options.instances or options.clean or options.fill)
    together = is_done_together(sources, targets, team, in_pieces=in_pieces)
    file_team = team if together else ALONE
    make_shared_folder(output, team)
    remove_abandoned(output)
    segmenter = load_checkpoints(checkpoint, options=options)
    if team.size > 1:  # of a run that goes on, the best checkpoint may have changed meanwhile
        told = {'options': dataclasses.asdict(options), 'weights': _weight_checksums(segmenter)}
        check_same(told, team, where=checkpoint)
    n_own = len(sources) if together else len(team.own(sources))
    with progress_bar(total=n_own, unit='file', desc='segmenting', disable=n_own < 2) as bar:

        def segment(path: Path) -> tuple[str, bool]:
            found = _try(segmenter, path, label_path(path, output), options, file_team)
            bar.update()
            return found

        if together:
            done = [segment(path) for path in sources]
        else:
            done = team.share(segment, sources, name='segment files')
    return [
        Outcome(path, label_path(path, output), error, skipped)
        for path, (error, skipped) in zip(sources, done, strict=True)
    ]


def _weight_checksums(segmenter: Segmenter | Ensemble) -> list[int]:
    leaves = jax.tree.leaves([member.variables for member in members_of(segmenter)])
    return [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in leaves]


def _find_sources(source: str | Path, output: Path, options: Options) -> list[Path]:
    """The tomograms, whose results replace neither them nor each other.

    Raises:
      InputError: there are none, or they do.
    """
    sources = without_labels(list_volumes(source, dataset=options.dataset))
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise InputError(output, 'the name of a file', 'a folder for the results')
    refuse_folder_of(sources, output)
    _check_targets(sources, output, options)
    return sources


def _try(
    segmenter: Segmenter | Ensemble, path: Path, target: Path, options: Options, team: Team
) -> tuple[str, bool]:
    """Segment a file: what went wrong, and whether its result was there already."""
    try:
        skipped = options.skip_existing and team.first(
            lambda: _is_segmented(path, target, options), name=f'look for {target}'
        )
        if not skipped:
            segment_file(segmenter, path, target, options=options, team=team)
        return '', skipped
    except Exception as error:  # one bad file must not cost the others
        return log_failure(path, error), False


def load_checkpoints(
    checkpoint: str | Path, *, options: Options | None = None
) -> Segmenter | Ensemble:
    """A trained network, or several as 'A,B,C', to be applied as the options say.

    Raises:
      InputError: no usable checkpoint, several that do not go together, or with instances.
    """
    options = options or Options()
    names = list_checkpoints(checkpoint)
    if options.instances and len(names) > 1:
        found = f'{len(names)} of them, with instances'
        raise InputError('checkpoint', found, 'one: flows of several networks are not averaged')
    wanted = {name: getattr(options, name) for name in ('tile', 'overlap', 'blend', 'rotate')}
    changed = {name: value for name, value in wanted.items() if value not in (None, False)}
    members = []
    for name in names:
        member = load_segmenter(name, mirror=options.mirror, instances=options.instances)
        members.append(retile(member, **changed) if changed else member)
    return join_members(members, names)


def log_failure(path: Path, error: Exception) -> str:
    """Log why a file could not be worked on; what to tell of it."""
    logging.error('%s', error if isinstance(error, InputError) else f'{path}: {error!r}')
    return str(error) or repr(error)


def check_options(options: Options) -> None:
    """Whether the options make sense together.

    Raises:
      InputError: naming the one that does not.
    """
    radius = options.cell_radius
    for name in ('clean', 'fill'):
        share = getattr(options, name)
        check_share(name, share)
        if options.instances and share:
            raise InputError(name, f'{share}, with instances', 'labels of classes')
    if options.instances and radius is None:
        expected = 'the typical radius of a cell, in voxels along x'
        raise InputError('cell_radius', 'not given, with instances', expected)
    if radius is None:
        return
    if not options.instances:
        raise InputError('cell_radius', f'{radius}, without instances', 'both or none')
    if not 0 < radius < np.inf:
        raise InputError('cell_radius', f'{radius}', 'a positive number of voxels')


def check_share(name: str, share: float) -> None:
    """Whether an option is a share.

    Raises:
      InputError: it is not 0 … 1.
    """
    if not 0 <= share <= 1:
        raise InputError(name, f'{share}', 'a share of 0 … 1')


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
        shape, found = open_volume(source).shape, [open_volume(path) for path in wanted]
    except InputError:
        return False
    _check_kind(target, found[0], options)
    return all(volume.shape == shape for volume in found)


def _check_kind(target: Path, found: Volume, options: Options) -> None:
    """Results of the other kind are neither taken for those wanted nor replaced by them.

    Labels of classes are written with the names of the classes, instances without.
    """
    of_instances = not found.class_names
    if found.metadata.get('format') == _WITHOUT_NAMES or of_instances == options.instances:
        return
    kinds = ('labels of classes', 'instances')
    message = f'holds {kinds[of_instances]}, not {kinds[options.instances]}'
    raise InputError(target, message, 'another folder for the results, or no --skip_existing')


def label_path(source: Path, output: Path) -> Path:
    """Where the labels of a source go: its name, in its format if that can be written."""
    source, _ = split_dataset(source)
    suffix = source.suffix.lower()
    if suffix in WRITABLE_SUFFIXES:
        return output / source.name
    return output / f'{source.stem if suffix in SUFFIXES else source.name}.tif'


def segment_file(
    segmenter: Segmenter | Ensemble,
    source: Path,
    target: Path,
    *,
    options: Options | None = None,
    team: Team = ALONE,
) -> None:
    """Write the labels of one tomogram; nothing is left at `target` if anything goes wrong.

    Args:
      segmenter: the networks.
      source: the tomogram.
      target: file for the labels.
      options: what is wanted besides.
      team: the processes that do this together, of classes in OME-Zarr, each some of the slices.

    Raises:
      InputError: the file is no volume, has other channels, NaN voxels or no contrast; the
        result cannot be written.
    """
    options = options or Options()
    image = team.each(lambda: _open_image(segmenter, source, team), name=f'open {source}')
    if options.instances:
        assert not isinstance(segmenter, Ensemble)
        assert options.cell_radius is not None
        flows_to = probability_path(target) if options.probabilities else None
        radius, name = options.cell_radius, str(source)
        write_instances(segmenter, image, target, name=name, cell_radius=radius, flows_to=flows_to)
        return
    with contextlib.ExitStack() as stack:
        classes = segmenter.classes
        values = classes.labels(np.arange(len(classes)))
        opened = _label_writer(target, image, values.dtype, classes, options, team)
        labels, slices = stack.enter_context(opened)
        probabilities = None
        if options.probabilities:
            n_channels, dtype = segmenter.probability_kind
            probabilities = stack.enter_context(
                open_writer(
                    probability_path(target),
                    shape=(*image.shape, n_channels),
                    dtype=dtype,
                    axes='zyxc',
                    voxel_size_nm=image.voxel_size_nm,
                    team=team,
                )
            )
        finish, share = add_classes if options.probabilities else keep_classes, Share(team, slices)
        predicted = predict_classes(segmenter, image, name=str(source), finish=finish, share=share)
        for z, heads in predicted:
            labels(z, values[heads['classes']])
            if probabilities is not None:
                probabilities.write(z, heads['probs'])


def probability_path(target: Path) -> Path:
    """Where probabilities, or foreground and flows, go that belong to a label file."""
    if target.suffix.lower() in _WITH_CHANNELS:
        return target.with_name(f'{target.stem}.probabilities{target.suffix}')
    return target.with_name(f'{target.name}.probabilities.h5')  # a.mrc and a.rec stay apart


def _open_image(segmenter: Segmenter | Ensemble, source: Path, team: Team) -> Volume:
    image = open_volume(source)
    for member in members_of(segmenter):
        _check_image(member, image, source)
        if team.size > 1:
            check_shareable(member, source)
    return image


def _check_image(segmenter: Segmenter, image: Volume, source: Path) -> None:
    if not segmenter.takes_channels(image.n_channels):
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
    target: Path, image: Volume, dtype: np.dtype, classes: Classes, options: Options, team: Team
) -> Iterator[tuple[Callable[[int, np.ndarray], None], tuple[int, int] | None]]:
    """A function that takes slabs of labels, and of which slices it does (None: of all).

    Slab by slab they go to the file where nothing is left to do.

    Cleaning and filling look at whole objects, so they need the whole label volume in memory.
    """
    names = classes.value_names
    if not (options.clean or options.fill):
        with open_writer(
            target,
            shape=image.shape,
            dtype=dtype,
            voxel_size_nm=image.voxel_size_nm,
            class_names=names,
            team=team,
        ) as writer:
            yield writer.write, writer.slices if team.size > 1 else None
        return
    labels = np.zeros(image.shape, dtype)

    def keep(z: int, slab: np.ndarray) -> None:
        labels[z : z + len(slab)] = slab

    yield keep, None
    labels = tidy(labels, clean_below=options.clean, fill_below=options.fill)
    write_volume(target, Volume(labels, image.voxel_size_nm, class_names=names))
