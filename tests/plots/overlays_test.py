"""Overlays show what they are given: places, colours, scale, names."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sxt_jax.core.errors import InputError
from sxt_jax.plots import orthogonal_slices, save_figure, side_by_side
from sxt_jax.plots.figures import colour, round_length

SIZE = (40.0, 20.0, 20.0)


@pytest.fixture(name='volume')
def _volume() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).random((12, 30, 40)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[3:9, 5:25, 10:30] = 1
    labels[5:8, 10:15, 15:20] = 3
    return image, labels


def panels(figure: Figure) -> dict:
    """Axes by title."""
    return {a.get_title(loc='left') or a.get_title(): a for a in figure.axes if a.images}


def bar_lengths(figure: Figure) -> list[float]:
    bars = [p for a in figure.axes for p in a.patches if isinstance(p, Rectangle)]
    return [float(bar.get_width()) for bar in bars]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_three_planes_at_one_scale(volume: tuple) -> None:
    figure = orthogonal_slices(*volume, voxel_size_nm=SIZE, class_names={1: 'cell', 3: 'lipid'})
    shown = panels(figure)
    assert set(shown) == {'xy', 'xz', 'yz'}
    assert shown['xy'].images[0].get_extent() == pytest.approx([0, 0.8, 0.6, 0])
    assert shown['xz'].images[0].get_extent() == pytest.approx([0, 0.8, 0.48, 0])
    assert shown['yz'].images[0].get_extent() == pytest.approx([0, 0.48, 0.6, 0])
    assert legend(figure) == ['cell', 'lipid']
    assert bar_lengths(figure) == pytest.approx([0.2])
    figure.canvas.draw()
    scales = [a.get_window_extent().width / np.ptp(a.get_xlim()) for a in shown.values()]
    np.testing.assert_allclose(scales, scales[0], rtol=0.02)


def test_a_thin_stack_is_shown_from_above_only(volume: tuple) -> None:
    image, labels = volume
    figure = orthogonal_slices(image[4:6], labels[4:6], voxel_size_nm=(5.0, 20.0, 20.0))
    assert [len(a.images) for a in figure.axes] == [2]
    assert bar_lengths(figure) == pytest.approx([0.2])


def test_slices_are_those_through_the_point(volume: tuple) -> None:
    image, labels = volume
    shown = panels(orthogonal_slices(image, labels, position=(4, 11, 16)))
    np.testing.assert_array_equal(shown['xy'].images[0].get_array(), image[4])
    np.testing.assert_array_equal(shown['xz'].images[0].get_array(), image[:, 11])
    np.testing.assert_array_equal(shown['yz'].images[0].get_array(), image[:, :, 16].T)
    tint = np.asarray(shown['xy'].images[1].get_array())
    assert (tint[..., 3] > 0).tolist() == (labels[4] > 0).tolist()
    np.testing.assert_allclose(tint[12, 17, :3], tint[7, 12, :3])  # both class 1 in this slice


def test_default_point_lies_in_the_foreground(volume: tuple) -> None:
    image, labels = volume
    ring = labels.copy()
    ring[:, 8:22, 13:27] = 0  # nothing at the centre of mass
    tint = np.asarray(panels(orthogonal_slices(image, ring))['xy'].images[1].get_array())
    assert (tint[..., 3] > 0).any()


def test_without_voxel_size_the_bar_counts_voxels(volume: tuple) -> None:
    figure = orthogonal_slices(*volume)
    assert bar_lengths(figure) == [10]
    texts = [t.get_text() for a in figure.axes for t in a.texts]
    assert texts == ['10 voxels']
    assert legend(figure) == ['class 1', 'class 3']


def test_side_by_side_gives_a_class_one_colour_in_both(volume: tuple) -> None:
    image, truth = volume
    prediction = np.where(truth == 1, 0, truth)  # misses class 1: class 3 must keep its colour
    figure = side_by_side(image, truth, prediction, voxel_size_nm=SIZE, z=6)
    shown = panels(figure)
    assert list(shown) == ['image', 'truth', 'prediction']
    assert len(shown['image'].images) == 1
    for name in ('truth', 'prediction'):
        tint = np.asarray(shown[name].images[1].get_array())
        np.testing.assert_allclose(tint[12, 17, :3], to_rgb(colour(1)))
    assert len(bar_lengths(figure)) == 3


def test_saved_picture_shows_the_object_in_its_colour(tmp_path: Path, volume: tuple) -> None:
    image, labels = volume
    figure = orthogonal_slices(np.zeros_like(image), labels * (labels == 1), voxel_size_nm=SIZE)
    save_figure(tmp_path / 'a' / 'slices.png', figure)
    pixels = matplotlib.image.imread(tmp_path / 'a' / 'slices.png')[..., :3]
    tint = 0.18 * np.array(to_rgb(colour(0)))
    close = np.abs(pixels - tint).max(-1) < 0.02
    assert close.mean() > 0.05
    assert [p.name for p in (tmp_path / 'a').iterdir()] == ['slices.png']


def test_no_global_state(volume: tuple) -> None:
    before = len(Gcf.figs)
    orthogonal_slices(*volume)
    assert len(Gcf.figs) == before


def test_nothing_to_show_still_makes_a_figure(volume: tuple) -> None:
    image, labels = volume
    constant = np.full_like(image, np.nan)
    figure = orthogonal_slices(constant, np.zeros_like(labels))
    assert not figure.legends


def test_round_lengths() -> None:
    assert [round_length(v) for v in (0.031, 0.2, 0.99, 1.0, 7, 49)] == pytest.approx(
        [0.02, 0.2, 0.5, 1, 5, 20]
    )


def test_bad_input(volume: tuple) -> None:
    image, labels = volume
    with pytest.raises(InputError, match='shape'):
        orthogonal_slices(image, labels[1:])
    with pytest.raises(InputError, match='position'):
        orthogonal_slices(image, labels, position=(12, 0, 0))
    with pytest.raises(InputError):
        side_by_side(image, labels, labels[:, 1:])
