"""Tiled inference gives what the network gives for the whole volume, however it is cut up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.inference import (
    add_classes,
    keep_classes,
    make_apply_fn,
    predict_slabs,
    predict_volume,
)
from sxt_jax.inference.batch import compile_network
from sxt_jax.inference.windows import BLENDS
from sxt_jax.models import UNet3D

REACH = 6  # of `small_unet`: 1 + (1 + 2 · 1) + 1 voxels, and 1 for the position in a pooled cell


def voxelwise(variables, tiles):
    """Looks at no neighbour, so that any blend of tiles is exact."""
    return {'a': jnp.sin(tiles * variables), 'b': jnp.concatenate([tiles, tiles**2], axis=-1)}


def conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1, 1), 'SAME', dimension_numbers=('NDHWC', 'DHWIO', 'NDHWC')
    )


def small_unet(kernels, tiles):
    """Convolution, pooling, convolution, up-sampling, skip, convolution: zero-padded throughout."""
    fine = jax.nn.relu(conv(tiles, kernels[0]))
    coarse = lax.reduce_window(fine, -jnp.inf, lax.max, (1, 2, 2, 2, 1), (1, 2, 2, 2, 1), 'VALID')
    coarse = jax.nn.relu(conv(coarse, kernels[1]))
    for axis in (1, 2, 3):
        coarse = jnp.repeat(coarse, 2, axis=axis)
    return {'out': conv(jnp.concatenate([coarse, fine], axis=-1), kernels[2])}


def unet_kernels(n_channels=1):
    rng = np.random.default_rng(0)
    shapes = (3, 3, 3, n_channels, 3), (3, 3, 3, 3, 3), (3, 3, 3, 6, 2)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) / 5 for s in shapes]


def whole(image, least=(2, 2, 2)):
    """`small_unet` on the volume in one piece, mirrored to even sides, a tile's or more."""
    image = image if image.ndim == 4 else image[..., None]
    sides = [max(t, n + n % 2) for t, n in zip(least, image.shape[:3], strict=True)]
    padding = [(0, m - n) for m, n in zip(sides, image.shape[:3], strict=True)] + [(0, 0)]
    padded = np.pad(image, padding, mode='reflect')
    out = jax.jit(small_unet)(unet_kernels(image.shape[3]), padded[None])['out'][0]
    return np.asarray(out)[tuple(slice(n) for n in image.shape[:3])]


class Lazy:
    """An image that can only be indexed."""

    def __init__(self, data):
        self._data, self.shape, self.dtype = data, data.shape, data.dtype

    def __getitem__(self, index):
        assert all(isinstance(i, slice) for i in index)
        return self._data[index]


@pytest.mark.parametrize('seed', range(20))
def test_a_voxelwise_network_is_exact_for_any_tiles_and_blend(seed):
    rng = np.random.default_rng(seed)
    image = rng.random(rng.integers(1, 40, 3), np.float32)
    tile = rng.choice([4, 8, 16], 3)
    overlap = [int(rng.integers(0, t)) if t < 16 else int(rng.integers(0, 9)) for t in tile]
    out = predict_volume(
        voxelwise, jnp.float32(2), image,
        tile=tile, overlap=overlap, blend=BLENDS[seed % 3], batch_size=int(rng.choice([8, 24])),
    )  # fmt: skip
    np.testing.assert_allclose(out['a'][..., 0], np.sin(2 * image), atol=2e-6)
    np.testing.assert_allclose(out['b'], np.stack([image, image**2], -1), atol=2e-6)


@pytest.mark.parametrize('seed', range(30))
def test_a_unet_gives_the_same_in_tiles_as_in_one_piece(seed):
    rng = np.random.default_rng(seed)
    image = rng.random(rng.integers(1, 36, 3), np.float32)
    tile = [int(t) for t in rng.choice([16, 20], 3)]
    overlap = [int(rng.integers(2 * REACH, t - 3)) for t in tile]
    out = predict_volume(
        small_unet, unet_kernels(), image, tile=tile, overlap=overlap, margin=REACH, align=2,
        blend=BLENDS[seed % 3], batch_size=4, device_mesh=make_device_mesh(jax.devices()[:1]),
    )  # fmt: skip
    np.testing.assert_allclose(out['out'], whole(image, tile), atol=1e-5)


@pytest.mark.parametrize('batch_size', [8, 24])
def test_some_slices_are_to_the_bit_those_of_the_whole_volume(batch_size):
    image = np.random.default_rng(0).random((60, 20, 12), np.float32)
    arguments = small_unet, unet_kernels(), image
    options = {'tile': (16, 12, 12), 'overlap': (10, 6, 6), 'align': 2, 'batch_size': batch_size}
    expected = predict_volume(*arguments, **options)['out']
    for start, stop in ((0, 16), (16, 48), (33, 34), (48, 60)):
        slabs = list(predict_slabs(*arguments, **options, slices=(start, stop)))
        assert [s.z_start for s in slabs] == [start, *(s.z_stop for s in slabs[:-1])]
        assert slabs[-1].z_stop == stop
        found = np.concatenate([slab.heads['out'] for slab in slabs])
        np.testing.assert_array_equal(found, expected[start:stop])
    with pytest.raises(InputError, match='slices'):
        predict_slabs(*arguments, **options, slices=(50, 61))


def test_the_published_kind_of_unet_gives_the_same_in_tiles_as_in_one_piece():
    shape = (10, 33, 41)
    model = UNet3D(filters=(4, 6), n_labels=3)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 4, 1)))
    halo = max(model.halo)
    arguments = make_apply_fn(model), variables, image
    one_device = {'device_mesh': make_device_mesh(jax.devices()[:1])}
    out = predict_volume(*arguments, tile=24, overlap=2 * halo, margin=halo, **one_device)
    one_piece = tuple(max(24, n + n % 2) for n in shape)
    expected = predict_volume(*arguments, tile=one_piece, overlap=0, **one_device)
    np.testing.assert_allclose(out['probs'], expected['probs'], atol=1e-5)
    np.testing.assert_allclose(out['probs'].sum(-1), 1, atol=1e-5)


def test_without_alignment_a_strided_network_differs():
    image = np.random.default_rng(0).random((16, 16, 39), np.float32)
    options = {'tile': 16, 'overlap': 13, 'margin': REACH, 'batch_size': 16}
    out = predict_volume(small_unet, unet_kernels(), image, align=1, **options)['out']
    assert np.abs(out - whole(image)).max() > 1e-2


OPTIONS = {'tile': (8, 12, 16), 'overlap': (2, 4, 8), 'align': 2}


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(1).random((30, 21, 37, 2), np.float32)


@pytest.fixture(scope='module')
def expected(image):
    return predict_volume(small_unet, unet_kernels(2), image, batch_size=8, **OPTIONS)['out']


def predict(image, **changes):
    return predict_volume(small_unet, unet_kernels(2), image, **{**OPTIONS, **changes})['out']


@pytest.mark.parametrize('batch_size', [None, 1, 13, 100])
def test_batch_size_does_not_matter(image, expected, batch_size):
    np.testing.assert_allclose(predict(image, batch_size=batch_size), expected, atol=1e-5)


@pytest.mark.parametrize('n_devices', [1, 3])
def test_fewer_devices_give_the_same(image, expected, n_devices):
    device_mesh = make_device_mesh(jax.devices()[:n_devices])
    out = predict(image, device_mesh=device_mesh, batch_size=6)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_where_float64_is_enabled_the_result_is_the_same_float32(image, expected):
    with jax.enable_x64(True):
        out = predict(image, batch_size=8)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_lazily_read_images_give_the_same(image, expected):
    np.testing.assert_array_equal(predict(Lazy(image), batch_size=8), expected)


def test_integer_images_are_taken_by_value(image):
    whole_numbers = (image * 200).astype('>u2')
    out = predict(whole_numbers, batch_size=8)
    np.testing.assert_array_equal(out, predict(whole_numbers.astype(np.float32), batch_size=8))


@pytest.mark.parametrize('batch_size', [8, 64])
def test_slabs_in_order_make_the_volume(image, expected, batch_size):
    slabs = list(
        predict_slabs(small_unet, unet_kernels(2), image, batch_size=batch_size, **OPTIONS)
    )
    edges = [slab.z_start for slab in slabs] + [slabs[-1].z_stop]
    assert edges == [0, *(slab.z_stop for slab in slabs)]
    assert edges[-1] == image.shape[0]
    out = np.concatenate([slab.heads['out'] for slab in slabs])
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(('n_classes', 'dtype'), [(3, np.uint8), (300, np.int32)])
def test_classes_are_decided_on_the_device_as_they_would_be_on_the_host(n_classes, dtype):
    phases = jnp.linspace(0, 6, n_classes)

    def network(variables, tiles):
        return {'probs': jax.nn.softmax(jnp.sin(5 * tiles + phases), axis=-1)}

    image = np.random.default_rng(3).normal(size=(19, 14, 9)).astype(np.float32)
    run = {'tile': 8, 'overlap': 4, 'batch_size': 8}
    probs = predict_volume(network, None, image, **run)['probs']
    both = predict_volume(network, None, image, finish=add_classes, **run)
    np.testing.assert_array_equal(both['probs'], probs)
    assert both['classes'].dtype == dtype
    np.testing.assert_array_equal(both['classes'], np.argmax(probs, axis=-1))
    only = predict_volume(network, None, image, finish=keep_classes, **run)
    assert list(only) == ['classes']
    np.testing.assert_array_equal(only['classes'], both['classes'])


def test_no_more_is_read_once_the_caller_stops():
    class Counting(Lazy):
        n_read = 0

        def __getitem__(self, index):
            Counting.n_read += index[0].stop - index[0].start
            return super().__getitem__(index)

    image = Counting(np.zeros((400, 8, 8), np.float32))
    slabs = predict_slabs(
        voxelwise, jnp.float32(1), image, tile=8, overlap=0, batch_size=1,
        device_mesh=make_device_mesh(jax.devices()[:1]),
    )  # fmt: skip
    assert next(slabs).z_stop == 8
    slabs.close()
    n_read = Counting.n_read
    assert n_read <= 6 * 8
    assert not list(slabs)
    assert Counting.n_read == n_read


@pytest.mark.parametrize('blend', BLENDS)
def test_blending_leaves_a_constant_as_it_is(blend):
    def ones(variables, tiles):
        return {'one': jnp.ones_like(tiles)}

    image = np.zeros((19, 23, 9), np.float32)
    out = predict_volume(ones, None, image, tile=8, overlap=5, blend=blend)['one']
    np.testing.assert_allclose(out, 1, atol=1e-6)


def test_overflow_in_the_margin_does_not_reach_the_result():
    def breaks_at_borders(variables, tiles):
        return {'out': tiles.at[:, 0].set(jnp.nan).at[:, :, -1].set(jnp.inf)}

    image = np.ones((30, 30, 30), np.float32)
    out = predict_volume(breaks_at_borders, None, image, tile=8, overlap=2, margin=1)['out']
    assert np.isfinite(out[1:, :-1]).all()


def test_new_volume_shapes_do_not_compile_the_network_again():
    def network(variables, tiles):
        return {'out': tiles + 1}

    for shape in [(9, 9, 9), (31, 17, 40), (2, 50, 8), (64, 8, 8)]:
        image = np.zeros(shape, np.float32)
        predict_volume(network, None, image, tile=8, overlap=4, batch_size=8)
    assert compile_network(network, make_device_mesh(jax.local_devices()))._cache_size() == 1


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'image': np.zeros((8, 8))}, 'image: shape'),
        ({'image': np.zeros((0, 8, 8))}, 'empty'),
        ({'tile': (8, 8)}, 'tile'),
        ({'tile': 6}, 'multiples of'),
        ({'overlap': 8}, 'overlap'),
        ({'blend': 'linear'}, 'blend'),
        ({'margin': 3}, 'margin'),
        ({'margin': -1}, 'margin'),
        ({'batch_size': 0}, 'batch_size'),
    ],
)
def test_bad_input_is_refused_at_the_call(changes, message):
    class Strided:
        side_multiple = 4

        def __call__(self, variables, tiles):
            return {'out': tiles}

    options = {'image': np.zeros((20, 20, 20)), 'tile': 8, 'overlap': 4, **changes}
    image = options.pop('image')
    with pytest.raises(InputError, match=message):
        predict_slabs(Strided(), None, image, **options)


def test_heads_of_another_shape_than_the_tile_are_refused():
    def halves(variables, tiles):
        return {'out': tiles[:, ::2]}

    with pytest.raises(InputError, match='head out'):
        predict_slabs(halves, None, np.zeros((8, 8, 8)), tile=8, overlap=0)
