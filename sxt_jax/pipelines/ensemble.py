"""Several networks that find the same classes: their probabilities are averaged."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.cell_maps import FOUND
from sxt_jax.data.classes import Classes
from sxt_jax.inference import Finish, add_classes
from sxt_jax.inference.cell_maps import STEPS, finish_cell_maps
from sxt_jax.pipelines.segmenter import Heads, Segmenter, predict_image
from sxt_jax.pipelines.share import ALL, Share


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Networks that find the same classes, each with conventions of its own.

    Attributes:
      members: two or more.
    """

    members: tuple[Segmenter, ...]

    @property
    def classes(self) -> Classes:
        return self.members[0].classes

    @property
    def probability_kind(self) -> tuple[int, type[np.generic]]:
        """Channels and dtype of 'probs' as `add_classes` leaves them."""
        return self.members[0].probability_kind


def list_checkpoints(text: str | Path) -> list[str | Path]:
    """The checkpoints of 'A,B,C'; a path with a comma in its name is one of them.

    Raises:
      InputError: one of them has no name.
    """
    if isinstance(text, Path) or Path(text).exists():
        return [text]
    names = [name.strip() for name in text.split(',')]
    if not all(names):
        raise InputError('checkpoint', repr(text), 'one, or several as A,B,C')
    return list(names)


def join_members(members: Sequence[Segmenter], names: Sequence[str | Path]) -> Segmenter | Ensemble:
    """An ensemble of networks; of one, the network itself.

    Their normalisation, tiles, grids and kinds may differ.

    Args:
      members: one or more that find classes.
      names: of their checkpoints, for errors.

    Raises:
      InputError: naming two that find other classes, or that no image suits.
    """
    first, *others = members
    for member, name in zip(others, names[1:], strict=True):
        if _what(member) != _what(first):
            expected = f'{_what(first)} as {names[0]} finds'
            raise InputError(name, f'finds {_what(member)}', expected)
        if member.n_channels != first.n_channels:
            expected = f'{first.n_channels} as {names[0]}'
            raise InputError(name, f'takes {member.n_channels} channels', expected)
    return Ensemble(tuple(members)) if others else first


def _what(member: Segmenter) -> str:
    """What is found: maps of cells, or names and written values of classes."""
    if member.classes is FOUND:
        return 'maps of cells'
    return ', '.join(f'{name}={value}' for value, name in member.classes.value_names.items())


def members_of(segmenter: Segmenter | Ensemble) -> tuple[Segmenter, ...]:
    """The networks of an ensemble, or the one."""
    return segmenter.members if isinstance(segmenter, Ensemble) else (segmenter,)


def predict_classes(
    segmenter: Segmenter | Ensemble,
    image: Volume,
    *,
    name: str,
    finish: Finish,
    share: Share = ALL,
) -> Iterator[tuple[int, Heads]]:
    """The classes of an image, slab by slab, by one network or by the mean of several.

    Networks work in step, and no slab is kept longer than another network needs to get there, so
    that as much memory is taken as all of them take, and a slab of each. Maps of cells are averaged
    as they are written, in steps of 1/255.

    Args:
      segmenter: the networks.
      image: with as many channels as they take.
      name: what to call it in errors.
      finish: `keep_classes`, or `add_classes` for the probabilities as well.
      share: what this process does.

    Yields:
      First slice and finished heads of consecutive slabs of the image's own grid, as of
      `segmenter.predict_image`.

    Raises:
      InputError: NaN voxels or no contrast.
    """
    members = members_of(segmenter)
    keep = finish if len(members) == 1 else add_classes
    options: Any = {'name': name, 'finish': keep, 'share': share}
    # All are measured by all processes before one predicts: from here on each goes its own way.
    heads = [
        share.team.each(
            functools.partial(predict_image, member, image, **options),
            name=f'measure {name} for network {i}',
        )
        for i, member in enumerate(members)
    ]
    if len(members) == 1:
        yield from heads[0]
        return
    start = share.slices[0] if share.slices else 0
    for z, slabs in in_step([(found['probs'] for _, found in stream) for stream in heads]):
        # In float64 sums of a few float32 are exact: neither order nor repetition matters.
        total = slabs[0].astype(np.float64)
        for slab in slabs[1:]:
            total += slab
        mean = (total / len(slabs)).astype(np.float32)
        yield start + z, jax.device_get(_finish(mean, finish, of_maps=segmenter.classes is FOUND))


def _finish(scores: np.ndarray, finish: Finish, *, of_maps: bool) -> dict[str, jax.Array]:
    if not of_maps:
        return finish({'probs': jnp.asarray(scores)})
    maps = jnp.asarray(scores / STEPS)
    return finish_cell_maps(finish)({'mask': maps[..., :1], 'boundary': maps[..., 1:]})


def in_step(
    streams: Sequence[Iterator[np.ndarray]],
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Slabs of several streams, cut wherever one of them is.

    Args:
      streams: of slabs [z, …] each, consecutive, and together of the same slices.

    Yields:
      First slice, counted from theirs, and the same slices of each stream.
    """
    nothing, z = np.zeros(0), 0
    slabs = [next(stream, nothing) for stream in streams]
    while depth := min(map(len, slabs)):
        yield z, [slab[:depth] for slab in slabs]
        z += depth
        slabs = [
            slab[depth:] if len(slab) > depth else next(stream, nothing)
            for slab, stream in zip(slabs, streams, strict=True)
        ]
    assert not any(map(len, slabs)), 'streams of different depth'
