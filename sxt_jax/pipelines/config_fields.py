"""Fields of a config as the library takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sxt_jax.core.errors import InputError
from sxt_jax.data.patches import Sampling


def make_sampling(config: Any) -> Sampling:
    """How the config draws patches.

    Raises:
      InputError: not in a way there is.
    """
    return Sampling(
        patch=tuple(config.data.patch),
        kind=config.data.sampling,
        stride=tuple(config.data.stride) if config.data.sampling == 'strided' else None,
        foreground_probability=config.data.foreground_probability,
        exchange_axes=config.data.exchange_axes,
        foreground_share=config.data.foreground_share,
        min_foreground=config.data.min_foreground,
    )


def working_shape(config: Any) -> tuple[int, int, int] | None:
    """The grid to resize volumes to; `--config.data.working_shape=None` arrives as (None,).

    Raises:
      InputError: it is no shape.
    """
    shape = tuple(n for n in config.data.working_shape or () if n is not None)
    return as_triple('data.working_shape', shape, least=1) if shape else None


def binning(config: Any) -> tuple[int, int, int]:
    """(z, y, x) voxels of the files that are one of the network's.

    Raises:
      InputError: they are not.
    """
    return as_triple('data.binning', tuple(config.data.binning), least=1)


def frozen_parts(config: Any) -> tuple[str, ...]:
    """Regular expressions of the parameters that no objective changes."""
    return tuple(part for part in config.frozen.split(',') if part)


def as_triple(name: str, values: Sequence[Any], *, least: int) -> tuple[int, int, int]:
    """Three whole numbers of a field.

    Raises:
      InputError: they are not, naming the field.
    """
    if len(values) != 3 or not all(isinstance(v, int) and v >= least for v in values):
        expected = f'three whole numbers (z, y, x) of at least {least}, given once'
        raise InputError(f'config.{name}', f'{tuple(values)}', expected)
    z, y, x = values
    return z, y, x
