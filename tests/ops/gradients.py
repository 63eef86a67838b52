"""A map and its gradients beside those of an oracle."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def check_map_and_gradients(
    found: Callable[..., jax.Array], oracle: Callable[..., jax.Array], *arrays: jax.Array
) -> jax.Array:
    """Assert that two maps of arrays agree, and their gradients; what was found is returned.

    To float32's rounding: 1e-6 of the largest number of the map, 1e-5 of a gradient's.
    """

    def both(*arrays):
        results = []
        for way in (found, oracle):
            out, pull = jax.vjp(way, *arrays)
            g = jax.random.normal(jax.random.key(7), out.shape, out.dtype)
            results.append((out, *pull(g)))
        return results

    # One program compiles faster than its parts.
    results, expected = jax.jit(both)(*arrays)
    for i, (ours, theirs) in enumerate(zip(results, expected, strict=True)):
        assert ours.shape == theirs.shape
        atol = (1e-5 if i else 1e-6) * float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=atol)
    return results[0]
