"""The steps of `reconstruct` one by one, as functions of their own that can be timed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import Case
from benchmarks.scenes import CELL_RADIUS, Scene
from sxt_jax.instances import Recipe, reconstruct
from sxt_jax.instances.reconstruct import (
    _close_ends,
    _follow,
    _label,
    _select,
    prepare,
    table_length,
)
from sxt_jax.metrics import average_precision
from sxt_jax.ops.components import connected_components


def stage_cases(scene: Scene, *, cell_radius: float = CELL_RADIUS) -> list[Case]:
    """All of `reconstruct`, and each of its steps on what the step before it gave.

    The steps are compiled here already, so their records show no time to compile.
    """
    foreground, flows = jnp.asarray(scene.labels > 0), jnp.asarray(scene.flows['tanh'])
    stages = make_stages(cell_radius)
    values: dict[str, Any] = {'foreground': foreground, 'flows': flows}
    cases = []
    for name, (stage, inputs) in stages.items():
        run = functools.partial(stage, *(values[key] for key in inputs))
        values[name] = run()
        cases.append(_stage_case(scene, name, run, values[name]))
    last = np.asarray(values['select'])

    def check(found: jax.Array) -> None:
        # Not voxel by voxel: compiled in one, roundings differ.
        assert average_precision(np.asarray(found), last, thresholds=(0.9,)).ap[0] > 0.98

    whole = functools.partial(reconstruct, foreground, flows, cell_radius=cell_radius)
    facts = {'noise': scene.noise, 'cell_radius': cell_radius}
    shape = scene.labels.shape
    return [Case('all', whole, check, scene.mvoxels, 'Mvoxel/s', shape, facts=facts), *cases]


def default_recipe(cell_radius: float) -> Recipe:
    """The default recipe, with what it leaves to the cell radius filled in."""
    return Recipe().filled_in(cell_radius, None)


def make_stages(
    cell_radius: float, recipe: Recipe | None = None
) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """The steps of a recipe, the default one by default.

    Returns:
      By name a function, and the names of its arguments.
    """
    recipe = (recipe or Recipe()).filled_in(cell_radius, None)

    @jax.jit
    def smooth(flows: jax.Array, mask: jax.Array) -> jax.Array:
        return prepare(flows, mask, recipe)

    @jax.jit
    def follow(flows: jax.Array, mask: jax.Array) -> jax.Array:
        return _follow(flows, mask, recipe)

    @jax.jit
    def close_ends(ends: jax.Array, mask: jax.Array) -> jax.Array:
        return _close_ends(ends, mask, recipe, None)

    @jax.jit
    def label(closed: jax.Array, ends: jax.Array, mask: jax.Array) -> jax.Array:
        return _label(connected_components(closed), ends, mask)

    def select(instances: jax.Array, flows: jax.Array, mask: jax.Array) -> jax.Array:
        n_labels = table_length(int(instances.max()))
        return _select(instances, flows, mask, recipe=recipe, voxel_size=None, n_labels=n_labels)

    return {
        'prepare': (smooth, ('flows', 'foreground')),
        'track': (follow, ('prepare', 'foreground')),
        'close': (close_ends, ('track', 'foreground')),
        'components': (label, ('close', 'track', 'foreground')),
        'select': (select, ('components', 'prepare', 'foreground')),
    }


def _stage_case(scene: Scene, name: str, run: Callable[[], Any], expected: jax.Array) -> Case:
    def check(found: jax.Array) -> None:
        assert jnp.array_equal(found, expected), name

    return Case(name, run, check, scene.mvoxels, 'Mvoxel/s', scene.labels.shape)
