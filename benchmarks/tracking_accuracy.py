"""How accurate are the ways to follow flows, and what do they cost?

    python -m benchmarks.instances --only=tracking_accuracy [--labels=FILE] [--repeats=0]

Euler's method with either look-up, and path doubling: after `n_direct` steps with the look-up
between voxels, each doubling reads one index a voxel. Flows are smoothed or not, of both kinds,
with several noises, and once more at a quarter of their length. What follows the tracking is the
default for all (closing, components, removal of small instances), so that scores differ by the
tracking alone. Timed is the tracking.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import Case, Record
from benchmarks.scenes import CELL_RADIUS, Scene, make_scenes, scored_case
from benchmarks.stages import default_recipe, make_stages
from sxt_jax.instances import Recipe, track
from sxt_jax.instances.tracking import plan_steps
from sxt_jax.plots.figures import GRAY, colour, new_figure, tidy

EULER_STEPS = (8, 16, 32, 64, 128, 256)
DOUBLED_STEPS = (32, 64, 128, 256, 512)
N_DIRECT = (2, 4, 8, 16)
SMOOTHINGS = (1.0, 0.0)
SHORT = 0.25  # of the length that flows should have: networks that are not sure give short ones


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to follow flows; the fields are those of `sxt_jax.instances.Recipe`."""

    method: str
    lookup: str
    n_steps: int
    n_direct: int
    smoothing: float

    @property
    def name(self) -> str:
        smooth = 'smoothed' if self.smoothing else 'as they are'
        if self.method == 'euler':
            return f'Euler, {self.lookup}, {self.n_steps} steps, {smooth}'
        return f'{self.n_direct} steps, then doubling to {self.n_steps}, {smooth}'

    @property
    def lookups(self) -> int:
        """How often a voxel looks up flows or, while doubling, an end."""
        if self.method == 'euler':
            return self.n_steps
        return self.n_direct + round(math.log2(self.n_steps / self.n_direct))


def ways() -> list[Way]:
    """All that are compared; the first, and so the baseline, is the most careful one."""
    found = []
    for smoothing in SMOOTHINGS:
        for lookup, n_steps in itertools.product(('linear', 'floor'), EULER_STEPS[::-1]):
            found.append(Way('euler', lookup, n_steps, n_steps, smoothing))
        for n_direct, n_steps in itertools.product(N_DIRECT, DOUBLED_STEPS):
            found.append(Way('doubling', 'linear', n_steps, n_direct, smoothing))
    return found


def default_way(cell_radius: float = CELL_RADIUS) -> Way:
    """The one of the default recipe, with the steps that doubling really makes."""
    recipe = default_recipe(cell_radius)
    assert recipe.n_steps is not None
    assert recipe.method == 'doubling'
    n_direct, n_doublings = plan_steps(
        recipe.n_steps, method=recipe.method, n_direct=recipe.n_direct
    )
    n_steps = n_direct * 2**n_doublings
    return Way(recipe.method, recipe.lookup, n_steps, n_direct, recipe.smoothing)


def accuracy_cases(
    labels: np.ndarray, noises: Sequence[float], *, compared: Sequence[Way]
) -> Iterator[list[Case]]:
    """A group of cases for each noise above 0, length and kind of flows.

    On short flows only the ways that go furthest are compared, with smoothing.
    """
    furthest = _furthest(compared)
    for scene in make_scenes(labels, [noise for noise in noises if noise > 0]):
        for kind in scene.flows:
            yield _cases(scene, kind, compared)
        if furthest:
            short = {kind: flows * np.float32(SHORT) for kind, flows in scene.flows.items()}
            for kind in short:
                weak = dataclasses.replace(scene, flows=short)
                yield _cases(weak, kind, furthest, length=SHORT)


def _furthest(compared: Sequence[Way]) -> list[Way]:
    """Of ways that smooth and differ in the number of steps alone, the one with most."""
    most: dict[tuple[str, str, int], Way] = {}
    for way in sorted(compared, key=lambda way: way.n_steps):
        if way.smoothing:
            own = way.n_direct if way.method == 'doubling' else 0
            most[way.method, way.lookup, own] = way
    return [way for way in compared if way in most.values()]


def _cases(scene: Scene, kind: str, compared: Sequence[Way], *, length: float = 1.0) -> list[Case]:
    mask = jnp.asarray(scene.labels > 0)
    raw = jnp.asarray(scene.flows[kind])
    flows = {}
    for smoothing in dict.fromkeys(way.smoothing for way in compared):
        prepare, _ = make_stages(CELL_RADIUS, Recipe(smoothing=smoothing))['prepare']
        flows[smoothing] = prepare(raw, mask)
    finish = functools.partial(_finish, make_stages(CELL_RADIUS), raw, mask)
    default = default_way()
    return [
        scored_case(
            scene,
            way.name if length == 1 else f'{way.name}, × {length:g}',
            kind,
            _tracking(way, flows[way.smoothing], mask),
            # Ways that lose cells are part of the answer; their scores tell.
            least_ap=0.8 if way == default else 0.0,
            finish=finish,
            lookups=way.lookups,
            length=length,
            default=way == default,
            **dataclasses.asdict(way),
        )
        for way in compared
    ]


def _tracking(way: Way, flows: jax.Array, mask: jax.Array) -> Callable[[], jax.Array]:
    options = dataclasses.asdict(way)
    del options['smoothing']
    follow = jax.jit(functools.partial(track, **options))
    return lambda: follow(flows, mask)


def _finish(stages: Any, flows: jax.Array, mask: jax.Array, ends: jax.Array) -> np.ndarray:
    """Instances of the ends, by the rest of the default recipe."""
    values = {'flows': flows, 'prepare': flows, 'foreground': mask, 'track': ends}
    for name in ('close', 'components', 'select'):
        stage, inputs = stages[name]
        values[name] = stage(*(values[key] for key in inputs))
    return np.asarray(values['select'])


def table_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Heads and rows of a table: a way a row, a scene a column; the newest record of each."""
    newest = _newest(records)
    scenes = list(dict.fromkeys(scene for _, scene in newest))
    heads = [_title(scene) for scene in scenes]
    rows = []
    for way in dict.fromkeys(way for way, _ in newest):
        found = [newest.get((way, scene)) for scene in scenes]
        seconds = [r['run_s'] for r in found if r and 'run_s' in r]
        facts = next(r['facts'] for r in found if r)
        rows.append((
            f'**{way.name}**' if facts['default'] else way.name,
            str(way.lookups),
            *(_scores(r['facts']) if r else '' for r in found),
            '–'.join(dict.fromkeys(f'{pick(seconds):.2g}' for pick in (min, max) if seconds)),
        ))  # fmt: skip
    table = [('way', 'look-ups', *heads, 'seconds'), *rows]
    return table if any(row[-1] for row in rows) else [row[:-1] for row in table]


def _title(scene: tuple[str, float, float]) -> str:
    kind, noise, length = scene
    return f'{kind}, noise {noise:g}' + ('' if length == 1 else f', × {length:g}')


def _scores(facts: dict[str, Any]) -> str:
    return f'{facts["matched_dice"]:.4f} / {facts["ap_90"]:.3f} / {facts["found"]}'


def _newest(records: Sequence[Record]) -> dict[tuple[Way, tuple[str, float, float]], Record]:
    """By way and scene (kind, noise and length of the flows)."""
    newest = {}
    for record in records:
        if record['benchmark'] == 'tracking_accuracy' and not record['smoke']:
            facts = record['facts']
            way = Way(**{field.name: facts[field.name] for field in dataclasses.fields(Way)})
            scene = (facts['flows'], facts['noise'], facts.get('length', 1.0))
            newest[way, scene] = record
    return newest


def figure(records: Sequence[Record]) -> Figure:
    """Error (1 − mean matched Dice) against look-ups, one panel a scene; a star: the default."""
    newest = _newest(records)
    scenes = [scene for scene in dict.fromkeys(scene for _, scene in newest) if scene[2] == 1]
    drawn = new_figure(7.2, 5.4)
    panels = drawn.subplots(2, math.ceil(len(scenes) / 2), squeeze=False, sharey='row').ravel()
    for axes, scene in zip(panels, scenes, strict=False):
        here = {way: record['facts'] for (way, other), record in newest.items() if other == scene}
        _draw(axes, here)
        axes.set_title(_title(scene), fontsize=9)
    panels[0].plot([], [], ':', color=GRAY, lw=1.3, label='not smoothed')
    drawn.legend(
        *panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=4,
        frameon=False, fontsize=8,
    )  # fmt: skip
    return drawn


def _draw(axes: Axes, facts: dict[Way, dict[str, Any]]) -> None:
    lines: dict[tuple[str, float], list[Way]] = {}
    for way in facts:
        name = f'Euler, {way.lookup}' if way.method == 'euler' else f'doubling after {way.n_direct}'
        lines.setdefault((name, way.smoothing), []).append(way)
    hues = {name: colour(i) for i, name in enumerate(dict.fromkeys(name for name, _ in lines))}
    for (name, smoothing), members in lines.items():
        members.sort(key=lambda way: way.lookups)
        axes.plot(
            [way.lookups for way in members],
            [1 - facts[way]['matched_dice'] for way in members],
            color=hues[name], ls='-' if smoothing else ':', lw=1.3, marker='o', ms=2.5,
            label=name if smoothing else '_not smoothed',
        )  # fmt: skip
    for way in facts:
        if facts[way]['default']:
            error = 1 - facts[way]['matched_dice']
            axes.plot(way.lookups, error, '*', color='black', ms=11, zorder=5, label='default')
    axes.set(xscale='log', yscale='log', xlabel='look-ups a voxel', ylabel='1 − Dice')
    tidy(axes)
