"""The loss of foreground and flows: the published sums, in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sxt_jax.core.devices import make_device_mesh, replicated, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.data.augment import Augmentation
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.datasets import Example
from sxt_jax.data.distort import Distortion
from sxt_jax.data.patches import Sampling
from sxt_jax.data.pipeline import PatchStream
from sxt_jax.data.targets import with_flows
from sxt_jax.training.flow_objective import flow_loss, foreground_loss, make_flow_loss
from sxt_jax.training.objectives import Objective
from sxt_jax.training.state import create_state
from sxt_jax.training.step import make_train_step
from tests.training.cells import TinyFlowNet, make_cells, tanh_flows

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SHAPE = (1, 4, 5, 6)
LABELS = RNG.integers(0, 2, SHAPE).astype(np.int16)
TRUTH, FLOWS = RNG.uniform(-1, 1, (2, *SHAPE, 3)).astype(np.float32)
FOREGROUND = RNG.uniform(-1, 1, SHAPE).astype(np.float32)


def test_the_published_loss():
    """One component after the other, as the published training step sums them."""
    mask = LABELS[0].astype(float)
    weight = np.clip(mask, 0.01, 1)
    parts = [
        ((FLOWS[0, ..., c] - TRUTH[0, ..., c]) ** 2 * weight).sum()
        / np.clip(weight.sum(), 1, mask.size)
        for c in range(3)
    ]
    assert float(flow_loss(FLOWS, TRUTH, LABELS)[0]) == pytest.approx(sum(parts) / 3, rel=1e-5)
    expected = np.abs(FOREGROUND[0] - mask).mean()
    assert float(foreground_loss(FOREGROUND, LABELS)[0]) == pytest.approx(expected, rel=1e-5)
    outputs = {'foreground': FOREGROUND[..., None], 'flows': FLOWS}
    loss = make_flow_loss(foreground_weight=2.0, flow_weight=0.5)
    total, told = loss(outputs, {'labels': LABELS, 'flows': TRUTH})
    assert float(total[0]) == pytest.approx(2 * expected + 0.5 * sum(parts) / 3, rel=1e-5)
    assert set(told) == {'foreground_loss', 'flow_loss'}


def test_ignored_voxels_do_not_count():
    labels = LABELS.copy()
    labels[:, 2:] = IGNORE_INDEX
    kept = [a[:, :2] for a in (FLOWS, TRUTH, LABELS)]
    np.testing.assert_allclose(flow_loss(FLOWS, TRUTH, labels), flow_loss(*kept), rtol=1e-5)
    found = foreground_loss(FOREGROUND, labels)
    np.testing.assert_allclose(found, foreground_loss(FOREGROUND[:, :2], LABELS[:, :2]), rtol=1e-5)


def test_a_patch_with_nothing_to_learn_has_no_loss_and_no_gradient():
    nothing = np.full(SHAPE, IGNORE_INDEX)

    def loss(flows, foreground):
        return flow_loss(flows, TRUTH, nothing)[0] + foreground_loss(foreground, nothing)[0]

    value, gradient = jax.value_and_grad(loss, argnums=(0, 1))(FLOWS, FOREGROUND)
    assert value == 0
    jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), gradient)


@pytest.mark.parametrize('weights', [(-1.0, 1.0), (0.0, 0.0), (float('nan'), 1.0)])
def test_bad_weights(weights):
    with pytest.raises(InputError, match=r'config\.flows'):
        make_flow_loss(foreground_weight=weights[0], flow_weight=weights[1])


def cells(seed, shape=(16, 16, 16)):
    image, ids = make_cells(seed, shape, n_cells=3)
    gray = (image[..., None] / 100).astype(np.float32)
    return with_flows(Example(str(seed), gray, ids.astype(np.int32)), tanh_flows)


def objective():
    examples = [cells(i) for i in range(8)]
    sampling = Sampling((8, 8, 8), 'each', exchange_axes=0.5)
    return Objective(
        name='supervised',
        stream=PatchStream(examples, sampling=sampling, batch_size=8, seed=0, n_classes=2),
        loss=make_flow_loss(),
        optimizer=optax.radam(1e-2),
        augmentation=Augmentation(flip_axes='zyx'),
        distortion=Distortion(
            probability=0.3, shuffle_windows=1, shuffle_side=3, inpaint_windows=1, inpaint_side=2
        ),
    )


@functools.cache
def first_state():
    """On the host, for runs on any devices: initialisation is compiled once."""
    one = make_device_mesh(jax.devices()[:1])
    state = create_state(
        KEY, TinyFlowNet(), [objective()], input_shape=(1, 8, 8, 8, 1), device_mesh=one
    )
    return jax.device_get(state)


def run(n_steps, devices):
    learnt, device_mesh, model = objective(), make_device_mesh(devices), TinyFlowNet()
    state = jax.device_put(first_state(), replicated(device_mesh))
    step, losses, states = make_train_step(model, learnt, device_mesh=device_mesh), [], []
    for i in range(n_steps):
        batch = jax.device_put(learnt.stream.batch(i), split_batch(device_mesh))
        state, metrics = step(state, batch, KEY)
        losses.append(float(metrics['loss']))
        states.append(jax.device_get(state))
    return states, losses


def test_the_loss_falls_and_eight_devices_make_the_steps_of_one():
    """With every kind of augmentation and distortion."""
    one, one_losses = run(40, jax.devices()[:1])
    eight, eight_losses = run(5, jax.devices())
    np.testing.assert_allclose(one_losses[:5], eight_losses, rtol=1e-5)
    assert np.mean(one_losses[-5:]) < 0.6 * np.mean(one_losses[:5])
    assert one[-1].step == 40
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        one[4].params, eight[4].params,
    )  # fmt: skip


def test_losses_are_finite_in_half_precision():
    outputs = {'foreground': jnp.bfloat16(FOREGROUND[..., None]), 'flows': jnp.bfloat16(FLOWS)}
    total, _ = make_flow_loss()(outputs, {'labels': LABELS, 'flows': TRUTH})
    assert total.dtype == jnp.float32
    assert np.isfinite(total).all()
