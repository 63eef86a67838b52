"""How fast are the random walks of smart interpolation, and what do they cost in memory?

    python -m benchmarks.random_walks [--smoke]

Against the same walks written plainly: six gray values read a step, JAX's own random numbers, all
walkers of a label at once on one core. Each is the check of the other: sums of hits alike, counts
correlated as those of two seeds are.

The released code (OpenCL on a CPU) takes 126 ns of processor time a step, which is 16 million steps
a second on two cores (Biomedisa with 10 walks of 4000 steps on a scene of this size: 2.6e9 steps in
330 CPU-seconds).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.harness import Case, main
from sxt_jax.labelling.gray import GrayLevels
from sxt_jax.labelling.random_walk import Starts, add_hits
from sxt_jax.labelling.starts import find_starts

N_WALKS, N_STEPS = 10, 400
_WAYS = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])


def make_scene(shape: tuple[int, int, int], *, spacing: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A noisy cell with a nucleus, uint8, and labels of every 16th slice."""
    grid = np.indices(shape) - np.reshape(shape, (3, 1, 1, 1)) / 2
    radius = np.sqrt(np.square(grid / np.reshape(shape, (3, 1, 1, 1)) * 2.6).sum(0))
    truth = (radius < 1).astype(np.uint8) + (radius < 0.45)
    noise = np.random.default_rng(0).normal(0, 12, shape)
    image = np.clip(80 + 40 * truth + noise, 0, 255).astype(np.uint8)
    sparse = np.zeros_like(truth)
    sparse[spacing // 2 :: spacing] = truth[spacing // 2 :: spacing]
    return image, sparse


def make_cases(smoke: bool) -> list[Case]:
    """The plain way, and ours; hits of all labels."""
    shape, n_steps = ((16, 24, 24), 60) if smoke else ((64, 128, 128), N_STEPS)
    image, sparse = make_scene(shape, spacing=8 if smoke else 16)
    levels = GrayLevels(image, percentiles=(0, 100))
    starts = find_starts(levels, sparse)
    n = N_WALKS * n_steps * sum(len(of.voxels) for of in starts.values())
    answers: dict[str, np.ndarray] = {}
    ways: dict[str, Callable[[], np.ndarray]] = {
        'plain JAX': functools.partial(_plain, image, starts, n_steps),
        'ours': functools.partial(_ours, levels, starts, n_steps),
    }
    facts = {'n_walks': N_WALKS, 'n_steps': n_steps, 'labels': len(starts)}

    def check(name: str, hits: np.ndarray) -> None:
        answers[name] = hits
        for label, one in enumerate(hits):
            for other in answers.values():
                assert abs(one.sum() / other[label].sum() - 1) < 1e-3
                found = np.corrcoef(one.ravel(), other[label].ravel())[0, 1]
                assert found > (0.5 if smoke else 0.95), found

    def case(name: str, run: Callable[[], np.ndarray]) -> Case:
        right = functools.partial(check, name)
        # The plain way compiles for a thousandth of its run, and is run as often as it is timed.
        compiles = name == 'ours'
        return Case(name, run, right, n / 1e6, 'Mstep/s', shape, facts=facts, compiles=compiles)

    return [case(name, run) for name, run in ways.items()]


def _ours(levels: GrayLevels, starts: Mapping[int, Starts], n_steps: int) -> np.ndarray:
    hits = np.zeros((len(starts), *levels.shape), np.int32)
    for (label, of), one in zip(starts.items(), hits, strict=True):
        add_hits(one, levels, of, seed=label, walks=range(N_WALKS), n_steps=n_steps)
    return hits


def _plain(image: np.ndarray, starts: Mapping[int, Starts], n_steps: int) -> np.ndarray:
    gray = jnp.pad(jnp.asarray(image, jnp.float32), 1)
    found = []
    for label, of in starts.items():
        places = np.stack(np.unravel_index(of.voxels, image.shape), 1) + 1
        columns = (places.astype(np.int32), of.levels / 2, of.variances / 4)
        walkers = (jnp.asarray(np.repeat(column, N_WALKS, 0)) for column in columns)
        hits = _plain_walk(gray, *walkers, jax.random.key(label), n_steps=n_steps)
        found.append(np.asarray(hits[1:-1, 1:-1, 1:-1]))
    return np.stack(found)


@functools.partial(jax.jit, static_argnames='n_steps')
def _plain_walk(
    gray: jax.Array,
    places: jax.Array,
    start: jax.Array,
    variances: jax.Array,
    key: jax.Array,
    *,
    n_steps: int,
) -> jax.Array:
    ways, last = jnp.asarray(_WAYS, jnp.int32), jnp.asarray(gray.shape, jnp.int32) - 1

    def step(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        places, hits = state
        around = places[:, None] + ways
        values = gray[around[..., 0], around[..., 1], around[..., 2]]
        weights = jnp.exp(-jnp.square(values - start[:, None]) / (2 * variances[:, None]))
        sums = jnp.cumsum(weights, 1)
        share = jax.random.uniform(jax.random.fold_in(key, i), start.shape)
        way = jnp.sum(share[:, None] * sums[:, -1:] >= sums[:, :-1], 1)
        moved = places + ways[way]
        free = jnp.all((moved > 0) & (moved < last), 1)
        places = jnp.where(free[:, None], moved, places)
        hits = hits.at[places[:, 0], places[:, 1], places[:, 2]].add(free.astype(jnp.int32))
        return places, hits

    return lax.fori_loop(0, n_steps, step, (places, jnp.zeros(gray.shape, jnp.int32)))[1]


if __name__ == '__main__':
    main('random_walks', make_cases)
