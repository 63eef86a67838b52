import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from sxt_jax.inference import add_classes, keep_classes, predict_volume
from sxt_jax.inference.label import finish_label
from sxt_jax.inference.rotated import rotated


@dataclasses.dataclass(frozen=True)
class Blur:
    """Knows nothing beyond its tile, and looks further to the right than to the left."""

    side_multiple: tuple = (1, 16, 16)

    def __call__(self, variables, tiles):
        padded = jnp.pad(tiles, ((0, 0), (0, 0), (2, 2), (0, 6), (0, 0)))
        n_y, n_x = tiles.shape[2:4]
        parts = [padded[:, :, y : y + n_y, x : x + n_x] for y in (0, 4) for x in (0, 3, 6)]
        return {'label': jnp.tanh(sum(parts))}


def published_average(image, chunk, stride, *, turn):
    """What deep_sxt's loop over chunks gives for sizes at which it covers the slice."""
    total, count = np.zeros(image.shape), np.zeros(image.shape)
    for y in range(0, image.shape[0] - chunk + 1, stride):
        for x in range(0, image.shape[1] - chunk + 1, stride):
            part = slice(y, y + chunk), slice(x, x + chunk)
            for k in range(4 if turn else 1):
                seen = np.rot90(image[part], k)[None, None, :, :, None]
                label = np.asarray(Blur()(None, jnp.asarray(seen))['label'])
                total[part] += np.rot90(label[0, 0, :, :, 0], -k)
                count[part] += 1
    return total / count


@pytest.mark.parametrize('turn', [False, True])
def test_chunks_are_averaged_as_published(turn):
    image = np.random.default_rng(0).standard_normal((112, 80)).astype(np.float32)
    apply_fn = rotated(Blur()) if turn else Blur()
    found = predict_volume(
        apply_fn, None, image[None], tile=(1, 48, 48), overlap=(0, 16, 16), blend='constant',
        batch_size=8,
    )['label'][0, ..., 0]  # fmt: skip
    expected = published_average(image, 48, 32, turn=turn)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    whole = np.asarray(apply_fn(None, jnp.asarray(image)[None, None, :, :, None])['label'])
    assert np.abs(found - whole[0, 0, :, :, 0]).max() > 0.1  # chunks do matter


def test_the_mask_is_where_the_label_is_above_zero():
    label = np.array([-1, -0.25, 0, 0.25, 1], np.float32)[:, None]
    heads = finish_label(add_classes)({'label': jnp.asarray(label)})
    np.testing.assert_array_equal(heads['classes'], [0, 0, 0, 1, 1])
    np.testing.assert_allclose(heads['probs'][:, 1], [0, 0.375, 0.5, 0.625, 1])
    np.testing.assert_allclose(heads['probs'].sum(-1), 1)


def test_the_function_is_the_same_so_that_it_is_compiled_once():
    assert finish_label(keep_classes) is finish_label(keep_classes)
    assert finish_label(keep_classes) is not finish_label(add_classes)
