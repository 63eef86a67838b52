"""Networks small enough to train in a test, and data for them."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from sxt_jax.data.datasets import Example
from sxt_jax.data.patches import Sampling
from sxt_jax.data.pipeline import PatchStream
from sxt_jax.models.blocks import BatchNorm


class TinyNet(nn.Module):
    """One convolution, batch normalisation, and two heads named after what they are."""

    n_labels: int = 2
    n_dims: int = 3

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(4, (3,) * self.n_dims, name='encoder')(x)
        x = BatchNorm(momentum=0.9, name='norm')(x, train=train)
        x = nn.relu(x)
        return {
            'logits': nn.Dense(self.n_labels, name='labels')(x),
            'image': nn.Dense(1, name='image')(x),
        }


def ball_example(seed=0, side=16, name='ball') -> Example:
    """A bright ball in noise."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.35, 0.65, 3) * side
    distance = np.sqrt(((np.indices((side,) * 3).T - centre) ** 2).sum(-1)).T
    labels = (distance < 0.28 * side).astype(np.int16)
    image = labels + 0.3 * rng.standard_normal(labels.shape)
    return Example(name, image.astype(np.float32)[..., None], labels, (10.0, 10.0, 10.0))


def ball_stream(batch_size=8, seed=0, n_examples=2, **options) -> PatchStream:
    return PatchStream(
        [ball_example(i) for i in range(n_examples)],
        sampling=Sampling((8, 8, 8), 'strided', (4, 4, 4)),
        batch_size=batch_size,
        seed=seed,
        n_classes=2,
        **options,
    )


def image_loss(outputs, batch):
    """Reconstruction of the image: an unsupervised loss."""
    error = (outputs['image'] - batch['image']) ** 2
    return jnp.mean(error, axis=tuple(range(1, error.ndim))), {}
