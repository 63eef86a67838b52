"""The double decoder against its definition in numpy, at sizes that no fixture has."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from sxt_jax.core import devices
from sxt_jax.core.errors import InputError
from sxt_jax.models import DoubleDecoder, build_model, model_config

# Every field away from the published value.
ODD = DoubleDecoder(
    width=3,
    encoder_filters=(4, 4, 4),
    encoder_kernels=(3, 2, 5),
    encoder_blocks=2,
    encoder_depth=3,
    encoder_add=True,
    neck_filters=5,
    neck_kernels=(2, 4),
    neck_depth=2,
    neck_add=True,
    image_filters=(4, 4, 3),
    image_kernels=(4, 2, 1),
    image_depth=1,
    image_add=True,
    image_skips=True,
    label_filters=(5, 3, 2),
    label_kernels=(3, 5, 3),
    label_blocks=1,
    label_skips=False,
)
TINY = DoubleDecoder(
    width=2, encoder_filters=(2, 2, 4), image_filters=(4, 2, 2), label_filters=(4, 2, 2)
)
# The smallest there is, for what takes long to compile.
LEAST = DoubleDecoder(
    width=2,
    encoder_filters=(2, 2),
    neck_filters=2,
    neck_kernels=(2,),
    neck_depth=1,
    image_filters=(2, 2),
    image_depth=1,
    label_filters=(2, 2),
    label_blocks=1,
    label_depth=1,
)


def _shapes(model, side=16):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, 1))))


def _random(model, seed=0):
    """Variables away from their initial values."""
    rng = np.random.default_rng(seed)

    def draw(place, leaf):
        if place[-1].key in ('var', 'scale'):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        scale = 1.5 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.3
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, _shapes(model))


def _images(b=2, side=8, seed=1):
    return np.random.default_rng(seed).normal(size=(b, side, side, 1)).astype(np.float32)


def _assert_close(found, expected, tolerance):
    """To a share of the largest number."""
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=tolerance * largest, rtol=0)


class Oracle:
    """The published network, layer by layer in float64."""

    def __init__(self, model, variables):
        self.model, self.variables = model, variables

    def find(self, kind, path):
        tree = self.variables[kind]
        for name in path.split('/'):
            tree = tree[name]
        return tree

    def conv(self, x, path):
        """'same': the odd zero of an even kernel goes behind."""
        weights = self.find('params', path)
        kernel = weights['kernel'].astype(float)
        k = len(kernel)
        pads = ((k - 1) // 2, k // 2)
        x = np.pad(x, ((0, 0), pads, pads, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), (1, 2))
        return np.einsum('byxcij,ijco->byxo', windows, kernel) + weights.get('bias', 0)

    def bottleneck(self, x, path):
        for name in ('reduce', 'conv', 'expand'):
            x = self.conv(x, f'{path}/{name}')
        return x

    def norm(self, x, path):
        weights, running = self.find('params', path), self.find('batch_stats', path)
        x = (x - running['mean']) / np.sqrt(running['var'] + 1e-3)
        return x * weights['scale'] + weights['bias']

    def act(self, x, path):
        return np.maximum(self.norm(x, path), 0)

    def join(self, x, y, part):
        return x + y if getattr(self.model, f'{part}_add') else np.concatenate([x, y], -1)

    def stage(self, x, path, part):
        depth = getattr(self.model, f'{part}_depth')
        for j in range(getattr(self.model, f'{part}_blocks')):
            y = x
            for k in range(depth - 1):
                y = self.act(self.bottleneck(y, f'{path}_{j}_conv_{k}'), f'{path}_{j}_norm_{k}')
            y = self.bottleneck(y, f'{path}_{j}_conv_{depth - 1}')
            x = self.act(self.join(x, y, part), f'{path}_{j}_norm_{depth - 1}')
        return x

    def up(self, x, path):
        """Each pixel paints its kernel on a grid twice as fine; 'same' cuts what hangs over."""
        weights = self.find('params', path)
        kernel = np.flip(weights['kernel'].astype(float), (0, 1))  # ours is held for correlation
        k, (b, h, w, _) = len(kernel), x.shape
        canvas = np.zeros((b, 2 * h + k, 2 * w + k, kernel.shape[-1]))
        for i, j in np.ndindex(h, w):
            painted = np.einsum('bc,ijco->bijo', x[:, i, j], kernel)
            canvas[:, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += painted
        cut = (k - 2) // 2
        return canvas[:, cut : cut + 2 * h, cut : cut + 2 * w] + weights['bias']

    def decoder(self, x, skips, part):
        for i, skip in enumerate(reversed(skips)):
            x = self.up(x, f'{part}_decoder/up_{i}')
            if getattr(self.model, f'{part}_skips'):
                x = self.join(skip, x, part)
            x = self.stage(x, f'{part}_decoder/stage_{i}', part)
        x = self.bottleneck(x, f'{part}_decoder/last_conv')
        return self.act(x, f'{part}_decoder/last_norm')

    def __call__(self, x):
        x = self.act(self.bottleneck(x.astype(float), 'encoder/first_conv'), 'encoder/first_norm')
        skips = []
        for i in range(len(self.model.filters('encoder')) - 1):
            x = self.stage(x, f'encoder/stage_{i}', 'encoder')
            skips.append(x)
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        branches = []
        for i in range(len(self.model.neck_kernels)):
            y = x
            for j in range(self.model.neck_depth):
                y = self.act(self.bottleneck(y, f'neck_{i}_conv_{j}'), f'neck_{i}_norm_{j}')
            branches.append(y)
        x = sum(branches) if self.model.neck_add else np.concatenate(branches, -1)
        image = self.decoder(x, skips, 'image')
        for i in range(3):
            image = self.bottleneck(image, f'image_head_conv_{i}')
        label = self.norm(self.decoder(x, skips, 'label'), 'label_head_norm')
        label = self.conv(self.bottleneck(label, 'label_head_conv'), 'label_head_last')
        return {'image': image, 'label': np.tanh(label)}


@pytest.mark.parametrize('model', [ODD, TINY], ids=['odd', 'tiny'])
def test_follows_the_definition_at_other_widths_depths_and_kernels(model):
    variables, x = _random(model), _images()
    found, expected = jax.jit(model.apply)(variables, x), Oracle(model, variables)(x)
    for name in ('image', 'label'):
        assert found[name].shape == (2, 8, 8, 1)
        assert np.std(expected[name]) > 0.01
        _assert_close(found[name], expected[name], 1e-5)


@pytest.mark.parametrize(
    ('width', 'trainable', 'in_all'), [(64, 76_483_502, 76_541_230), (8, 1_201_666, 1_208_882)]
)
def test_has_the_published_number_of_parameters(width, trainable, in_all):
    shapes = _shapes(DoubleDecoder(width=width))
    count = {kind: sum(a.size for a in jax.tree.leaves(shapes[kind])) for kind in shapes}
    assert count['params'] == trainable
    assert sum(count.values()) == in_all
    assert len(jax.tree.leaves(shapes)) == 378


def test_config_is_json_and_makes_the_network_again():
    assert build_model(model_config(ODD)) == ODD
    assert build_model({'name': 'double_decoder', 'width': 8}) == DoubleDecoder(width=8)


def test_names_of_variables_say_which_branch_they_belong_to():
    both = _shapes(TINY)
    for head, other in (('label', 'image'), ('image', 'label')):
        alone = _shapes(dataclasses.replace(TINY, heads=(head,)))
        for kind in both:
            left_out = set(both[kind]) - set(alone[kind])
            assert left_out
            assert all(name.startswith(f'{other}_') for name in left_out)
            assert all(name.startswith(('encoder', 'neck', f'{head}_')) for name in alone[kind])


def test_one_head_alone_is_the_same_with_the_variables_of_both():
    variables, x = _random(TINY), _images()
    label_only = dataclasses.replace(TINY, heads=('label',))
    found = jax.jit(label_only.apply)(variables, x)
    assert set(found) == set(label_only.head_activations) == {'label'}
    expected = jax.jit(TINY.apply)(variables, x)['label']
    np.testing.assert_allclose(found['label'], expected, atol=1e-6)


def _reach(model, variables, side=128):
    """How far a pixel changes the output. All weights are positive, and without it all is 0."""
    period = model.side_multiple[0]
    apply = jax.jit(model.apply)
    found = 0
    for pixel in range(side // 2, side // 2 + period):
        x = np.zeros((1, period, side, 1), np.float32)
        x[0, 0, pixel] = 1
        for head in apply(variables, x).values():
            changed = np.flatnonzero(np.asarray(head)[0].any((0, 2)))
            found = max(found, pixel - changed[0], changed[-1] - pixel)
    return found


@pytest.mark.parametrize(
    'model', [ODD, dataclasses.replace(TINY, heads=('image',))], ids=['odd', 'image']
)
def test_halo_is_how_far_a_pixel_reaches(model):
    variables = _shapes(model)
    ones = jax.tree.map(lambda a: jnp.full(a.shape, 0.3 if len(a.shape) > 1 else 1.0), variables)
    ones = jax.tree_util.tree_map_with_path(
        lambda place, a: 0 * a if place[-1].key in ('bias', 'mean') else a, ones
    )
    assert _reach(model, ones) == model.halo[0] == model.halo[1]


def test_published_halo_and_sides():
    assert DoubleDecoder().side_multiple == (16, 16)
    assert DoubleDecoder().halo == (187, 187)  # found by `_reach` too, in 26 s


def test_trains_alike_on_one_and_eight_devices_and_in_bfloat16():
    variables, x = _random(LEAST), _images(b=8)

    def step(model):
        def loss(params, x):
            heads, updated = model.apply(
                {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
            )
            return sum(jnp.mean(jnp.square(h - x)) for h in heads.values()), updated

        # Half the time to compile; all that is tested is decided before.
        options = {'xla_backend_optimization_level': 0}
        return jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=options)

    split = jax.device_put(x, devices.split_batch(devices.make_device_mesh()))
    (value, updated), gradient = step(LEAST)(variables['params'], x)
    (split_value, split_updated), split_gradient = step(LEAST)(variables['params'], split)
    np.testing.assert_allclose(split_value, value, rtol=1e-5)
    for found, expected in ((split_gradient, gradient), (split_updated, updated)):
        # Together: biases before a normalisation have a gradient of 0, and rounding.
        _assert_close(*(ravel_pytree(tree)[0] for tree in (found, expected)), 1e-5)
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradient['label_decoder']))
    half = dataclasses.replace(LEAST, dtype=jnp.bfloat16)
    (half_value, half_updated), half_gradient = step(half)(variables['params'], x)
    np.testing.assert_allclose(half_value, value, rtol=0.1)
    for leaf in jax.tree.leaves((half_updated, half_gradient)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


def test_vmap_over_examples_is_the_batch():
    variables, x = _random(LEAST), _images(b=3)
    one_by_one = jax.jit(jax.vmap(lambda x: LEAST.apply(variables, x[None])['label'][0]))(x)
    expected = jax.jit(LEAST.apply)(variables, x)['label']
    _assert_close(one_by_one, expected, 1e-5)


@pytest.mark.parametrize(
    ('fields', 'shape', 'message'),
    [
        ({}, (1, 24, 20, 1), r'sides \(24, 20\).*multiples of \(16, 16\)'),
        ({}, (16, 16, 1), r'\[b, y, x, c\]'),
        ({'heads': ('mask',)}, (1, 16, 16, 1), 'double_decoder.heads'),
        ({'width': 0}, (1, 16, 16, 1), 'positive'),
        ({'label_filters': (8, 4)}, (1, 16, 16, 1), 'label_filters'),
        ({'image_kernels': (3, 1, 3, 3, 3)}, (1, 16, 16, 1), 'image_kernels.*at least 2'),
        ({'label_blocks': 0}, (1, 16, 16, 1), 'label_blocks'),
        ({'encoder_add': True}, (1, 16, 16, 1), 'encoder_add.*a sum of 8 and 16 channels'),
    ],
)
def test_says_what_does_not_fit(fields, shape, message):
    model = DoubleDecoder(**{'width': 8, **fields})
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(shape)))
