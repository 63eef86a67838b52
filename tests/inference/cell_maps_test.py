import jax.numpy as jnp
import numpy as np

from sxt_jax.inference import add_classes, keep_classes
from sxt_jax.inference.cell_maps import finish_cell_maps


def _heads(mask, boundary):
    return {name: jnp.asarray(v)[None, None, :, None] for name, v in
            (('mask', mask), ('boundary', boundary))}  # fmt: skip


def test_a_boundary_goes_before_the_inside():
    heads = _heads([0.0, 0.5, 0.9, 0.2], [0.0, 0.4, 0.5, 1.0])
    found = finish_cell_maps(keep_classes)(heads)
    assert list(found) == ['classes']
    assert found['classes'].dtype == np.uint8
    np.testing.assert_array_equal(found['classes'].ravel(), [0, 1, 2, 2])


def test_maps_are_written_in_steps_of_a_255th():
    mask, boundary = np.linspace(0, 1, 9, dtype=np.float32), np.full(9, 0.3, np.float32)
    found = finish_cell_maps(add_classes)(_heads(mask, boundary))
    assert found['probs'].shape == (1, 1, 9, 2)
    assert found['probs'].dtype == np.uint8
    back = np.asarray(found['probs'])[0, 0] / 255
    np.testing.assert_allclose(back, np.stack([mask, boundary], -1), atol=0.5 / 255 + 1e-7)
    assert finish_cell_maps(add_classes) is finish_cell_maps(add_classes)
