"""Variables of a network without the seconds it takes to compile its `init`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def shapes(model, shape, **options):
    """Variables tree of shapes and dtypes, for an input of this shape."""
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **options), jnp.zeros(shape))


def count(tree):
    """Numbers in a tree of arrays or of their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def draw(model, shape, **options):
    """Every array random: kernels small, scales and variances about 1, all others about 0."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        name = path[-1].key
        if name in ('scale', 'var'):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            fan_in = max(int(np.prod(leaf.shape[:-1])), 1) if name == 'kernel' else 10
            values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes(model, shape, **options))
