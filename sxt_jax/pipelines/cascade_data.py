"""What each stage of a cascade learns from: the same volumes, the same ones held out.

Behind the gray values are the probabilities of the stage before. Those of a volume that a stage
trains on come from a network that did not see it, unless the config says otherwise: on volumes it
has learnt by heart a network is surer than it will ever be again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sxt_jax.core.box import Box
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import fits_in_memory
from sxt_jax.core.volume import ArrayLike, load
from sxt_jax.data.classes import Classes
from sxt_jax.data.datasets import Example, crop_example, sample_checksum
from sxt_jax.data.intensity import Intensity
from sxt_jax.data.stage_maps import WithProbabilities
from sxt_jax.data.surface_band import Band, find_borders
from sxt_jax.io import open_volume, pair
from sxt_jax.pipelines.check_config import check_isotropy
from sxt_jax.pipelines.config_fields import binning, working_shape
from sxt_jax.pipelines.task_cells import select_cells
from sxt_jax.pipelines.train_network import Load
from sxt_jax.pipelines.trained_network import SURFACE
from sxt_jax.pipelines.training_data import TrainingData, check_together, hold_out, read_pairs

Steps = tuple[float, ...]
Place = tuple[str, int]  # a folder of the config, 'train' or 'validation', and which of its volumes


@dataclasses.dataclass(frozen=True)
class StageMap:
    """The probabilities that a stage gave a volume.

    Attributes:
      path: Zarr of [z, y, x, k] uint8, probability · 255.
      steps: voxels of the volume's file in one of its voxels, along z, y and x.
      source: of what they were made: one text for the same network on the same channels.
    """

    path: Path
    steps: Steps
    source: str


@dataclasses.dataclass(frozen=True)
class Volumes:
    """All volumes of a cascade as a stage sees them, whole.

    Attributes:
      found: each by where it is.
      classes: what labels mean.
      intensity: how gray values were normalised.
    """

    found: Mapping[Place, Example]
    classes: Classes
    intensity: Intensity

    def of(self, folder: str) -> list[Place]:
        """The places of a folder's volumes, in order."""
        return [place for place in self.found if place[0] == folder]


class StageData:
    """The data of a stage, read once for all its trainings.

    Args:
      config: of the stage, from `stage_config`.
      maps: what the stage before gave each volume; None: it is the first.
      multiple: (z, y, x) voxels of a file, of which every stage's voxels hold a whole part.
      n_folds: parts of the volumes to train on that will be left out in turn; 0: none.
    """

    def __init__(
        self,
        config: Any,
        maps: Mapping[Place, StageMap] | None,
        *,
        multiple: Sequence[int],
        n_folds: int = 0,
    ) -> None:
        self.config, self.n_folds = config, n_folds
        self._maps, self._multiple = maps, tuple(multiple)
        self._volumes: Volumes | None = None
        self._known_as: tuple[str, ...] = ()

    def volumes(self, intensity: str | Intensity) -> Volumes:
        """All volumes; those last asked for are kept.

        Raises:
          InputError: an error in the data.
        """
        if self._volumes is None or repr(intensity) not in self._known_as:
            self._volumes = self._read(intensity)
            self._known_as = repr(intensity), repr(self._volumes.intensity)
        return self._volumes

    def load(self, config: Any, *, intensity: str | Intensity, folder: str | Path) -> TrainingData:
        """The stage's data, as `train_network.load_training_data` gives those of other runs.

        Raises:
          InputError: an error in the data, or folds of a single volume.
        """
        data = self.without(())(config, intensity=intensity, folder=folder)
        if self.n_folds and len(data.train) == 1:
            found = f'{self.n_folds}, with one volume to train on ({data.train[0].name})'
            expected = '0: probabilities of the same network'
            raise InputError('config.out_of_fold.folds', found, expected)
        return data

    def foresee(self, first: StageData, data: TrainingData) -> None:
        """Check what can be told of this stage's volumes before the stages before are trained.

        Args:
          first: the first stage.
          data: what it learns from.

        Raises:
          InputError: naming the volume.
        """
        check_isotropy(self.config, [self._sized(example, first) for example in data.train])

    def _sized(self, example: Example, first: StageData) -> Example:
        """An example of the first stage, with the voxel size that it has in this one."""
        if example.voxel_size_nm is None:
            return example
        z, y, x = (
            size * own / before
            for size, own, before in zip(
                example.voxel_size_nm, self.steps(example), first.steps(example), strict=True
            )
        )
        return dataclasses.replace(example, voxel_size_nm=(z, y, x))

    def without(self, left_out: Sequence[Place]) -> Load:
        """What gives the same data without some of the volumes to train on, as `load`."""

        def load(config: Any, *, intensity: str | Intensity, folder: str | Path) -> TrainingData:
            del config, folder
            volumes = self.volumes(intensity)
            train, held = self.split(volumes)
            kept = [example for place, example in train.items() if place not in left_out]
            return self._together(volumes, kept, held)

        return load

    def split(self, volumes: Volumes) -> tuple[dict[Place, Example], list[Example]]:
        """What to train on, by where it is, and what to validate on: the same for all stages.

        Raises:
          InputError: a single volume too small to be parted.
        """
        places = volumes.of('train')
        examples = [volumes.found[place] for place in places]
        fields = self.config.data
        if fields.validation:
            held = [volumes.found[place] for place in volumes.of('validation')]
            return dict(zip(places, examples, strict=True)), held
        if len(examples) == 1 and not fields.folds and fields.validation_fraction > 0:
            first, last = self._part(examples[0])
            return {places[0]: first}, [last]
        train, held = hold_out(self.config, examples)
        kept = {id(example) for example in train}
        by_place = zip(places, examples, strict=True)
        return {place: example for place, example in by_place if id(example) in kept}, held

    def _together(
        self, volumes: Volumes, train: list[Example], held: list[Example]
    ) -> TrainingData:
        n_gray = None
        if self._maps is not None:
            n_gray = int(train[0].image.shape[3]) - len(volumes.classes)
        data = TrainingData(train, held, volumes.classes, volumes.intensity, n_gray=n_gray)
        return check_together(data)

    def _read(self, intensity: str | Intensity) -> Volumes:
        fields = self.config.data
        examples, classes, fitted = read_pairs(
            self.config, fields.train, fields.labels, intensity=intensity
        )
        found = {('train', i): example for i, example in enumerate(examples)}
        if fields.validation:
            examples, _, _ = read_pairs(
                self.config,
                fields.validation,
                fields.validation_labels,
                intensity=fitted,
                classes=classes,
            )
            found |= {('validation', i): example for i, example in enumerate(examples)}
        if self._maps is not None:
            found = self._join(found)
        return Volumes(found, classes, fitted)

    def _join(self, found: Mapping[Place, Example]) -> dict[Place, Example]:
        """Volumes with the probabilities of the stage before behind their channels."""
        assert self._maps is not None
        maps: dict[Place, Any] = {}
        for place in found:
            maps[place] = open_volume(self._maps[place].path).data
        n_bytes = sum(math.prod(data.shape) for data in maps.values())
        if fits_in_memory(n_bytes):
            maps = {place: load(data) for place, data in maps.items()}
        return {
            place: self._join_one(example, self._maps[place], maps[place])
            for place, example in found.items()
        }

    def _join_one(self, example: Example, made: StageMap, maps: ArrayLike) -> Example:
        steps = self.steps(example)
        ratio = [own / other for own, other in zip(steps, made.steps, strict=True)]
        joined = WithProbabilities(example.image, maps, ratio)
        band = None
        stage = self.config.stage
        if stage.where == SURFACE:
            band = Band(find_borders(maps), joined.ratio, stage.surface_voxels)
        checksum = zlib.crc32(made.source.encode())
        return dataclasses.replace(example, image=joined, band=band, checksum=checksum)

    @functools.cached_property
    def gray_checksums(self) -> Mapping[Place, int]:
        """Of the gray values of each volume's file, whatever a device made of them since."""
        fields = self.config.data
        found = {
            ('train', i): file
            for i, file in enumerate(self._files(fields.train, fields.labels, new_names=False))
        }
        if fields.validation:
            files = self._files(fields.validation, fields.validation_labels, new_names=True)
            found |= {('validation', i): file for i, file in enumerate(files)}
        return {place: sample_checksum(open_volume(file).data) for place, file in found.items()}

    def _files(self, images: str, labels: str, *, new_names: bool) -> list[Path]:
        """The images of a folder in the order of `read_pairs`."""
        fields = self.config.data
        if fields.task:
            chosen = select_cells(self.config, images, labels, new_names=new_names)
            return [one.image for one in chosen.pairs]
        datasets: dict[str, Any] = {
            'dataset': fields.dataset or None,
            'label_dataset': fields.label_dataset or None,
        }
        return [one.image for one in pair(images, labels or None, **datasets)]

    def steps(self, example: Example) -> Steps:
        """Voxels of an example's file in one of its own."""
        shape = working_shape(self.config)
        if shape is None:
            return binning(self.config)
        assert example.file_shape is not None
        return tuple(n / m for n, m in zip(example.file_shape, shape, strict=True))

    def _part(self, example: Example) -> tuple[Example, Example]:
        """The first and last part of a single volume along its longest axis, cut for all stages.

        The last is what is validated on; no voxel of any stage lies in both.
        """
        assert example.file_shape is not None
        axis = int(np.argmax(example.file_shape))
        n, multiple = example.file_shape[axis], self._multiple[axis]
        cut = round((1 - self.config.data.validation_fraction) * n / multiple) * multiple
        if not 0 < cut < n:
            found = f'{n} voxels along its longest axis, cut at multiples of {multiple}'
            raise InputError(example.name, found, 'config.data.validation_fraction=0, or two')
        place, whole = cut / self.steps(example)[axis], Box.of_shape(example.shape)
        stop, start = list(whole.stop), list(whole.start)
        stop[axis], start[axis] = math.floor(place + 1e-6), math.ceil(place - 1e-6)
        first, last = Box(whole.start, tuple(stop)), Box(tuple(start), whole.stop)
        return crop_example(example, first), crop_example(example, last)


def common_multiple(configs: Sequence[Any]) -> tuple[int, ...]:
    """(z, y, x) voxels of a file that every stage's bins divide."""
    each = [binning(config) for config in configs if working_shape(config) is None]
    return tuple(math.lcm(*sizes) for sizes in zip((1, 1, 1), *each, strict=True))
