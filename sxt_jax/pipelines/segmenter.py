"""A trained network with its conventions, and what it finds in an image: classes, or flows.

Networks that give a label −1 … 1 (deep_sxt) find two classes: background, and where it is above 0.
Networks that give the maps of cells (fibsem) find cells and their boundaries.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import ALONE, Team
from sxt_jax.core.progress import progress_bar
from sxt_jax.core.volume import ArrayLike, Volume
from sxt_jax.data.binning import NO_BINNING, Binning, bin_image
from sxt_jax.data.cell_maps import FOUND
from sxt_jax.data.classes import Classes
from sxt_jax.data.intensity import Intensity, NormalisedArray, measure_affine
from sxt_jax.data.stage_maps import WithProbabilities, make_room
from sxt_jax.data.surface_band import Band, find_borders
from sxt_jax.data.targets import CELLS
from sxt_jax.inference import Finish, mirrored, predict_slabs, predict_volume
from sxt_jax.inference.biomedisa import MirroredBeyond, padded_shape
from sxt_jax.inference.cell_maps import finish_cell_maps
from sxt_jax.inference.enlarge import enlarge_bins
from sxt_jax.inference.label import finish_label
from sxt_jax.inference.orthogonal import HEADS as SLICE_HEADS
from sxt_jax.inference.selection import EarlierProbs, Selection, to_maps
from sxt_jax.inference.whole_slices import slice_tiling
from sxt_jax.io import split_dataset
from sxt_jax.models.heads import CELL_MAPS
from sxt_jax.models.slicewise import takes_slices
from sxt_jax.ops.resample import resize_rows, resize_slabs
from sxt_jax.ops.resample_opencv import resize_class_rows, resize_image
from sxt_jax.pipelines.share import ALL, Share
from sxt_jax.pipelines.trained_network import TrainedNetwork, keep_heads, load_stages, stage_reach

RESAMPLINGS = ('linear', 'opencv')
MEMBRANES = Classes(('background', 'membrane'), (0, 1))  # what deep_sxt was published for
_SLAB_DEPTH = 32
Heads = dict[str, np.ndarray]
Seen = tuple[ArrayLike, dict[str, Any]]  # what a network sees, and options of `predict_slabs`


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A trained network with its conventions.

    Attributes:
      apply_fn: (variables, tiles) → heads, among them 'probs', 'label', 'foreground' and 'flows',
        or 'mask' and 'boundary'.
      variables: of the network.
      classes: what its channels mean; with flows, `CELLS`.
      intensity: what gray values it expects.
      n_channels: of its images.
      working_shape: grid it works on; None: each file's own.
      tiling: tile, overlap, blend, batch_size.
      voxel_size_nm: of the training data's files, if known.
      device_mesh: the devices.
      resampling: to and from the working grid, one of `RESAMPLINGS`. 'linear': images and
        probabilities trilinearly, the most probable class is chosen on the grid of the file.
        'opencv': as in Biomedisa, images and the classes chosen on the working grid
        (`ops.resample_opencv`); probabilities, if asked for, trilinearly.
      whole_tiles: volumes are mirrored to whole tiles, as in Biomedisa.
      slices: whether its flows are those of slices, to be seen in three orientations.
      mirror: axes over whose mirror images slices are averaged; with `slices` only, other networks
        are `mirrored` already.
      optional_channels: how many of the last channels an image may lack; they are empty then.
      diameter_px: to which slices are resized so that cells have it; None: they are not.
      has_label: whether the head is a label −1 … 1.
      whole_slices: whether slices are seen whole where memory allows.
      has_maps: whether the heads are the maps of cells.
      binning: (z, y, x) voxels of a file that are one of the network's; tiles are of the latter.
      earlier: the network of the stage before it in a cascade, whose probabilities it sees behind
        the channels of an image; None: it is alone, or the first.
      surface_voxels: of a surface stage, how far from where the classes of the stage before it meet
        it is run; None: everywhere.
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
    resampling: str = 'linear'
    whole_tiles: bool = False
    slices: bool = False
    mirror: str = ''
    optional_channels: int = 0
    diameter_px: float | None = None
    has_label: bool = False
    whole_slices: bool = False
    has_maps: bool = False
    binning: Binning = NO_BINNING
    earlier: Segmenter | None = None
    surface_voxels: int | None = None

    @property
    def probability_kind(self) -> tuple[int, type[np.generic]]:
        """Channels and dtype of 'probs' as `add_classes` leaves them."""
        return (len(CELL_MAPS), np.uint8) if self.has_maps else (len(self.classes), np.float32)

    def takes_channels(self, n_channels: int) -> bool:
        """Whether images may have that many."""
        return 0 <= self.n_channels - n_channels <= self.optional_channels


def load_segmenter(
    checkpoint: str | Path, *, mirror: str = '', instances: bool = False
) -> Segmenter:
    """The best intact checkpoint of a run, or an imported one, ready to use on all devices.

    Of a cascade it is the last stage, which knows those before it.

    Args:
      checkpoint: workdir, or the folder of one checkpoint.
      mirror: axes ('zyx') over whose mirror images predictions are averaged.
      instances: whether the network is to find cells one by one, by flows, and not classes.

    Raises:
      InputError: no intact checkpoint, or one of a network that finds the other.
    """
    segmenter: Segmenter | None = None
    for network in load_stages(checkpoint):
        segmenter = _ready(network, mirror=mirror, instances=instances, earlier=segmenter)
    assert segmenter is not None
    return segmenter


def _ready(
    network: TrainedNetwork, *, mirror: str, instances: bool, earlier: Segmenter | None
) -> Segmenter:
    has_label = not instances and 'label' in _heads(network)
    has_maps = set(_heads(network)) == set(CELL_MAPS)
    _check_heads(network, instances=instances)
    if has_label:
        network = keep_heads(network, ('label',))
    facts, apply_fn = network.facts, network.apply_fn
    resampling = facts.get('resampling', 'linear')
    if resampling not in RESAMPLINGS:
        raise InputError(network.path, f'resampling {resampling!r}', f'one of {RESAMPLINGS}')
    working_shape, voxel_size = facts['working_shape'], facts['voxel_size_nm']
    z, y, x = facts.get('binning', NO_BINNING)
    slices, conventions = instances and takes_slices(network.model), facts.get('conventions', {})
    mirrored_fn = mirrored(apply_fn, axes=mirror) if mirror else apply_fn  # told if not of 'zyx'
    return Segmenter(
        apply_fn=apply_fn if slices else mirrored_fn,
        variables=network.variables,
        classes=CELLS if instances else FOUND if has_maps else _classes(facts),
        intensity=_intensity(facts),
        n_channels=facts.get('n_gray', facts['n_channels']),
        working_shape=tuple(working_shape) if working_shape else None,
        tiling=dict(facts['tiling']),
        voxel_size_nm=_unbinned(voxel_size, (z, y, x)) if voxel_size else None,
        device_mesh=make_device_mesh(jax.local_devices()),
        resampling=resampling,
        whole_tiles=facts.get('whole_tiles', False),
        slices=slices,
        mirror=mirror if slices else '',
        # Published networks take a second channel of nuclei, which is empty where there is none.
        optional_channels=int(conventions.get('channels') == ['cytoplasm', 'nucleus']),
        diameter_px=conventions.get('diameter_px'),
        has_label=has_label,
        whole_slices=has_label,
        has_maps=has_maps,
        binning=(z, y, x),
        earlier=earlier,
        surface_voxels=stage_reach(facts),
    )


def _unbinned(size: Sequence[float], binning: Binning) -> tuple[float, float, float]:
    """Of a voxel of the file, where `size` is that of a bin."""
    z, y, x = (side / n for side, n in zip(size, binning, strict=True))
    return z, y, x


def _classes(facts: Mapping[str, Any]) -> Classes:
    """Weights of deep_sxt, when imported, name no classes."""
    return Classes.from_dict(facts['classes']) if facts['classes'] else MEMBRANES


def _intensity(facts: Mapping[str, Any]) -> Intensity:
    """Likewise, they tell of no normalisation of volumes, but of slices."""
    return Intensity.from_dict(facts['intensity'] or {'kind': 'slice', 'mean': (), 'std': ()})


def _heads(network: TrainedNetwork) -> dict[str, str | None]:
    return dict(network.model.head_activations)  # type: ignore[attr-defined]


def _check_heads(network: TrainedNetwork, *, instances: bool) -> None:
    heads = _heads(network)
    name, gives_flows = network.facts['model']['name'], {'foreground', 'flows'} <= set(heads)
    if instances and not gives_flows:
        found = f'a network {name!r}, which gives no flows'
        raise InputError(network.path, found, 'cellpose3d or another that does, or no --instances')
    if instances and takes_slices(network.model) and not set(SLICE_HEADS) <= set(heads):
        found = f'a network {name!r} of slices, which gives {", ".join(heads)}'
        raise InputError(network.path, found, f'the heads {", ".join(SLICE_HEADS)}')
    if instances and network.facts['working_shape']:
        found = f'flows on a fixed grid of {network.facts["working_shape"]} voxels'
        raise InputError(network.path, found, 'a network trained without config.data.working_shape')
    tells_classes = heads.get('logits') == 'softmax' or 'label' in heads
    if not instances and not tells_classes and set(heads) != set(CELL_MAPS):
        found = f'a network {name!r}, which tells no classes'
        expected = 'one that segments classes, such as unet3d (launch.export takes others)'
        if gives_flows:
            expected = 'launch.segment with --instances --cell_radius=VOXELS, or one of classes'
        raise InputError(network.path, found, expected)


def predict_image(
    segmenter: Segmenter, image: Volume, *, name: str, finish: Finish, share: Share = ALL
) -> Iterator[tuple[int, Heads]]:
    """The classes of an image, or its flows, slab by slab.

    What is normalised by the whole image is measured by the call, before the first slab is asked
    for: then processes that share an image meet, and no more until its end.

    Args:
      segmenter: the network.
      image: with as many channels as it takes.
      name: what to call it in errors.
      finish: what to keep of the heads: `keep_classes`, or `add_classes` for the probabilities
        (`probability_kind`) as well; of networks with flows any function of heads [..., k].
      share: what this process does; less than all only of networks that take the image as it is.

    Yields:
      First slice and finished heads of consecutive slabs of the image's own grid.

    Raises:
      InputError: NaN voxels or no contrast.
    """
    watch, seen = _Stopwatch(), _seen(segmenter, image, name, share.team)
    return _predict(segmenter, image, name, finish, share, seen, watch)


def _predict(
    segmenter: Segmenter,
    image: Volume,
    name: str,
    finish: Finish,
    share: Share,
    seen: Seen,
    watch: _Stopwatch,
) -> Iterator[tuple[int, Heads]]:
    predict = _on_own_grid if segmenter.working_shape is None else _on_working_grid
    if segmenter.binning != NO_BINNING:
        predict = _on_bins
    first, last = share.slices or (0, image.shape[0])
    if segmenter.has_label or segmenter.has_maps:
        finish = finish_label(finish) if segmenter.has_label else finish_cell_maps(finish)
    with progress_bar(
        total=last - first, unit='slice', desc=split_dataset(name)[0].name, inner=True
    ) as bar:
        for z, heads in predict(segmenter, image, seen, finish, share):
            yield z, heads
            n_done = len(next(iter(heads.values())))
            bar.update(n_done)
            watch.count(n_done)
    logging.info('%s: %s', name, watch)


class _Stopwatch:
    """How fast slices come, with and without the first, which wait for compilation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first: tuple[float, int] | None = None
        self._last, self._n = self._start, 0

    def count(self, n_slices: int) -> None:
        self._last, self._n = time.perf_counter(), self._n + n_slices
        self._first = self._first or (self._last, self._n)

    def __str__(self) -> str:
        text = f'{self._n} slices in {self._last - self._start:.1f} s, compilation included'
        time_of_first, n_first = self._first or (self._last, self._n)
        if self._n > n_first:
            rate = (self._n - n_first) / (self._last - time_of_first)
            text += f'; after the first {n_first}: {rate:.3g} slices/s'
        return text


def _on_own_grid(
    segmenter: Segmenter, image: Volume, seen: Seen, finish: Finish, share: Share
) -> Iterator[tuple[int, Heads]]:
    gray, options = seen
    depth, height, width = image.shape
    if share.slices is not None:
        if share.slices[0] == share.slices[1]:
            return
        options = {**options, 'slices': share.slices}
    for slab in predict_slabs(
        segmenter.apply_fn,
        segmenter.variables,
        gray,
        finish=finish,
        **{**run_options(segmenter, image), **options},
    ):
        if slab.z_start < depth:
            stop = depth - slab.z_start
            heads = {n: head[:stop, :height, :width] for n, head in slab.heads.items()}
            yield slab.z_start, heads


def _on_bins(
    segmenter: Segmenter, image: Volume, seen: Seen, finish: Finish, share: Share
) -> Iterator[tuple[int, Heads]]:
    assert share.slices is None
    gray, options = seen
    slabs = predict_slabs(
        segmenter.apply_fn, segmenter.variables, gray, **run_options(segmenter), **options
    )
    heads = (slab.heads for slab in slabs)
    return enlarge_bins(heads, binning=segmenter.binning, shape=image.shape, finish=finish)


def _on_working_grid(
    segmenter: Segmenter, image: Volume, seen: Seen, finish: Finish, share: Share
) -> Iterator[tuple[int, Heads]]:
    assert segmenter.working_shape is not None
    assert share.slices is None
    as_opencv = segmenter.resampling == 'opencv'
    gray, options = seen
    heads = predict_volume(
        segmenter.apply_fn,
        segmenter.variables,
        gray,
        finish=finish if as_opencv else None,
        **run_options(segmenter),
        **options,
    )
    z, y, x = segmenter.working_shape
    on_device = {n: jnp.asarray(head[:z, :y, :x]) for n, head in heads.items()}
    for start in range(0, image.shape[0], _SLAB_DEPTH):
        stop = min(start + _SLAB_DEPTH, image.shape[0])
        rows = {}
        if 'probs' in on_device:
            rows['probs'] = resize_rows(on_device['probs'], image.shape, start, stop)
        if as_opencv:
            rows['classes'] = resize_class_rows(
                on_device['classes'], image.shape, start, stop, n_classes=len(segmenter.classes)
            )
        yield start, jax.device_get(rows if as_opencv else finish(rows))


def _seen(segmenter: Segmenter, image: Volume, name: str, team: Team = ALONE) -> Seen:
    """What the network sees of an image, on its own grid, and where it is not run everywhere.

    Raises:
      InputError: NaN voxels or no contrast.
    """
    gray: ArrayLike = bin_image(image.data, segmenter.binning)
    if segmenter.working_shape is not None:
        measure_affine(Intensity(), gray, name=name)  # NaNs must not spread by resizing
        resize = resize_image if segmenter.resampling == 'opencv' else resize_slabs
        gray = resize(gray, segmenter.working_shape)
    affine = measure_affine(segmenter.intensity, gray, name=name, team=team)
    seen = NormalisedArray(gray, affine)
    if segmenter.earlier is None:
        return (seen if segmenter.binning != NO_BINNING else _whole(segmenter, seen)), {}
    maps = _predict_maps(segmenter.earlier, image, name)
    steps = (_voxel_steps(one, image) for one in (segmenter, segmenter.earlier))
    joined = WithProbabilities(seen, maps, [own / other for own, other in zip(*steps, strict=True)])
    if segmenter.surface_voxels is None:
        return joined, {}
    band = Band(find_borders(maps), joined.ratio, segmenter.surface_voxels)
    selection = Selection(band.choose_tiles, EarlierProbs(len(segmenter.classes)))
    return joined, {'selection': selection}


def _predict_maps(segmenter: Segmenter, image: Volume, name: str) -> np.ndarray:
    """[z, y, x, k] uint8 probabilities of a network on its own grid, as the next stage sees them.

    Raises:
      InputError: NaN voxels or no contrast.
    """
    seen, options = _seen(segmenter, image, name)
    maps = make_room((*seen.shape[:3], len(segmenter.classes)))
    title = f'{split_dataset(name)[0].name}, earlier stage'
    with progress_bar(total=len(maps), unit='slice', desc=title, inner=True) as bar:
        for slab in predict_slabs(
            segmenter.apply_fn,
            segmenter.variables,
            seen,
            finish=to_maps,
            **run_options(segmenter),
            **options,
        ):
            maps[slab.z_start : slab.z_stop] = slab.heads['maps']
            bar.update(slab.z_stop - slab.z_start)
    return maps


def _voxel_steps(segmenter: Segmenter, image: Volume) -> tuple[float, ...]:
    """Voxels of a file in one of the network's, along z, y and x."""
    if segmenter.working_shape is None:
        return segmenter.binning
    return tuple(n / m for n, m in zip(image.shape, segmenter.working_shape, strict=True))


def run_options(segmenter: Segmenter, image: Volume | None = None) -> dict[str, Any]:
    """How tiles are cut, run and blended; of an image by slices, whether these are seen whole."""
    options = {**segmenter.tiling, 'device_mesh': segmenter.device_mesh}
    if image is not None and segmenter.whole_slices:
        options['tile'], options['overlap'] = slice_tiling(
            segmenter.apply_fn,
            segmenter.variables,
            image.shape,
            tile=options['tile'],
            overlap=options['overlap'],
            n_channels=image.n_channels,
            device_mesh=segmenter.device_mesh,
        )
    return options


def _whole(segmenter: Segmenter, data: NormalisedArray) -> NormalisedArray | MirroredBeyond:
    if not segmenter.whole_tiles:
        return data
    sides = {name: segmenter.tiling[name] for name in ('tile', 'overlap')}
    return MirroredBeyond(data, padded_shape(data.shape[:3], **sides))
