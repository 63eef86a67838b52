import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.data.datasets import Example
from sxt_jax.training.cell_map_evaluator import cell_map_scores
from sxt_jax.training.cell_map_objective import cell_map_loss
from sxt_jax.training.objectives import make_segmentation_loss

RNG = np.random.default_rng(0)
CODES = RNG.integers(-1, 4, (3, 1, 6, 5)).astype(np.int16)


def _dice(p, t):
    """Squared denominators, of the pixels that count."""
    counted = CODES >= 0
    p, t = p[counted], t[counted]
    return 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum())


def test_loss_is_the_mean_of_both_dice():
    mask, boundary = RNG.random((2, *CODES.shape)).astype(np.float32)
    outputs = {'mask': jnp.asarray(mask[..., None]), 'boundary': jnp.asarray(boundary[..., None])}
    found, told = cell_map_loss()(outputs, {'labels': jnp.asarray(CODES)})
    dice = [_dice(mask, np.isin(CODES, (1, 3))), _dice(boundary, np.isin(CODES, (2, 3)))]
    np.testing.assert_allclose(found, np.full(3, 1 - np.mean(dice)), rtol=1e-5)
    np.testing.assert_allclose(told['mask_loss'], np.full(3, 1 - dice[0]), rtol=1e-5)
    np.testing.assert_allclose(told['boundary_loss'], np.full(3, 1 - dice[1]), rtol=1e-5)


def test_dice_with_squared_denominators_is_that_of_a_sigmoid():
    """Two classes through a softmax are one map through a sigmoid of the difference."""
    logits = RNG.normal(size=(*CODES.shape, 2)).astype(np.float32)
    labels = np.where(CODES < 0, -1, CODES > 1)
    loss = make_segmentation_loss({'dice_squared': 1.0})
    found, _ = loss({'logits': jnp.asarray(logits)}, {'labels': jnp.asarray(labels)})
    probs = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    np.testing.assert_allclose(found, np.full(3, 1 - _dice(probs, CODES > 1)), rtol=1e-5)


def test_patches_without_the_class_teach_not_to_find_it():
    """Of a batch with the class: in a batch without it, any map has a Dice of 0."""
    loss = make_segmentation_loss({'dice_squared': 1.0})
    labels = jnp.zeros((2, 1, 4, 4), int).at[0, 0, :2].set(1)

    def total(logits):
        return loss({'logits': logits}, {'labels': labels})[0].mean()

    gradient = jax.grad(total)(jnp.zeros((2, 1, 4, 4, 2)))
    assert (gradient[1, ..., 1] > 0).all()


def _truth_as_heads(variables, tiles):
    codes = tiles[..., 0].astype(jnp.int32)
    return {
        'mask': (codes & 1)[..., None] * 0.6,
        'boundary': (codes & 2 > 0)[..., None] * variables,
    }


def test_scores_are_of_both_maps_over_all_slices():
    image = np.maximum(CODES, 0)[:, 0, :, :, None].astype(np.float32)
    examples = [Example(str(i), image[i : i + 1], CODES[i]) for i in range(len(CODES))]
    tiling = {'tile': (1, 6, 5), 'overlap': 0, 'blend': 'cosine'}
    run = {'tiling': tiling, 'device_mesh': None}
    found = cell_map_scores(_truth_as_heads, 0.5, examples, **run)
    assert found == {'dice': 1.0, 'dice/mask': 1.0, 'dice/boundary': 1.0}
    found = cell_map_scores(_truth_as_heads, 0.4, examples, **run)
    assert found == {'dice': 0.5, 'dice/mask': 1.0, 'dice/boundary': 0.0}
