"""Simulated FIB-SEM stacks: cells of a tissue in contact, with filopodia, and the truth of each.

Cells fill the volume and are cut by its faces. Their filopodia run through the gaps between them;
cut across, they are islands in a slice. Membranes are dark lines, but where cells touch they fade
in places: there nothing in a slice tells two cells apart, as in tumours (Machireddy et al. 2023).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage

from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.id_borders import id_borders
from sxt_jax.data.phantom.body import draw
from sxt_jax.data.phantom.classes import CLASS_NAMES, FILOPODIUM
from sxt_jax.data.phantom.parameters import Absorption, SceneParameters
from sxt_jax.data.phantom.scene import Scene, build_scene
from sxt_jax.data.phantom.shapes import StarBody, random_rotation, random_star_body

GRAY = Absorption(
    ice=0.86,
    cytoplasm=0.62,
    nucleus=0.66,
    nucleolus=0.40,
    mitochondria=0.42,
    lipid_droplets=0.30,
    vacuoles=0.82,
    membrane=0.62,  # lines are drawn later, where the cells' borders are
    filopodia=0.60,
)
"""Brightness of stained and embedded tissue, 1 is white: resin bright, what is dense dark."""

_LINE = 0.18
_ENVELOPE = 0.5  # how much of such a line shows around organelles
_SPACING = 0.87  # distance of neighbours in diameters: they press on each other


@dataclasses.dataclass(frozen=True)
class MicroscopeParameters:
    """How a block of tissue looks in the microscope.

    Attributes:
      membrane_nm: width of the lines along membranes; at least two voxels.
      faint_contacts: share of the contacts between cells along which no line is seen.
      contact_patch_nm: how far a contact stays seen or unseen.
      blur_px: standard deviation of the blur in a slice.
      noise: standard deviation of the noise, of the white level.
      brightness_variation: standard deviation of the slices' brightness and contrast, relative.
    """

    membrane_nm: float = 60.0
    faint_contacts: float = 0.5
    contact_patch_nm: float = 900.0
    blur_px: float = 0.6
    noise: float = 0.05
    brightness_variation: float = 0.03

    def __post_init__(self) -> None:
        if not 0 <= self.faint_contacts <= 1:
            raise InputError('faint_contacts', f'{self.faint_contacts}', 'a share from 0 to 1')


@dataclasses.dataclass(frozen=True)
class SimulatedStack:
    """Slices of a block of tissue with the truth behind them, all on one grid.

    Attributes:
      image: uint8 brightness.
      labels: uint8 classes, see `CLASS_NAMES`.
      instances: int32, each cell (1, 2, …) with its filopodia.
      organelles: int32, each nucleus, nucleolus, mitochondrion, lipid droplet, vacuole and
        filopodium; numbers go on from those of `instances`.
      boundaries: bool, voxels of cells next to another cell or the outside in their slice, also
        where the image shows no line.
      objects: one row an object, see `SimulatedTomogram`; what is said of LAC is brightness.
    """

    image: Volume
    labels: Volume
    instances: Volume
    organelles: Volume
    boundaries: Volume
    objects: Mapping[str, np.ndarray]


def tissue_parameters(
    shape: tuple[int, int, int] = (32, 128, 128), *, voxel_size_nm: float | None = None
) -> SceneParameters:
    """Tumour cells of 6 µm that touch.

    Args:
      shape: (z, y, x) voxels.
      voxel_size_nm: None for a field of 14 µm along the longest edge. Published stacks have 4 to
        6 nm.
    """
    voxel = 14_000 / max(shape) if voxel_size_nm is None else voxel_size_nm
    return SceneParameters(
        shape=shape,
        voxel_size_nm=voxel,
        container='none',
        cell_semi_axes_nm=((2700, 3300),) * 3,
        cell_deformation=0.1,
        cell_roughness=0.015,
        nucleus_fraction=(0.5, 0.6),
        n_nucleoli=(1, 3),
        n_mitochondria=(15, 30),
        n_filopodia=(30, 50),
        filopodium_radius_nm=(100, 180),
        filopodium_length_nm=(800, 3500),
        n_beads=(0, 0),
        absorption=GRAY,
    )


def tissue(
    seed: int,
    *,
    shape: tuple[int, int, int] = (32, 128, 128),
    voxel_size_nm: float | None = None,
    microscope: MicroscopeParameters | None = None,
) -> SimulatedStack:
    """Simulate a stack of `tissue_parameters`; the same seed gives the same bits on a machine.

    Args:
      seed: non-negative; other seeds give other scenes and noise.
      shape, voxel_size_nm: see `tissue_parameters`.
      microscope: how the tissue looks; None: the defaults.
    """
    parameters = tissue_parameters(shape, voxel_size_nm=voxel_size_nm)
    return simulate_stack(seed, scene=parameters, microscope=microscope or MicroscopeParameters())


def simulate_stack(
    seed: int, *, scene: SceneParameters, microscope: MicroscopeParameters
) -> SimulatedStack:
    """Simulate a stack of any cells that fill a volume.

    Args:
      seed: non-negative.
      scene: cells and what is in them; their number follows from their size, `n_cells` does not
        count. The absorption of materials is taken as their brightness.
      microscope: how they look.
    """
    scene_seed, image_seed = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(scene_seed)
    built = build_scene(rng, scene, bodies=packed_bodies(rng, scene))
    boundaries = boundaries_of(built.instances)
    rng = np.random.default_rng(image_seed)
    image = _look(rng, built, voxel_nm=scene.voxel_size_nm, microscope=microscope)
    size = (scene.voxel_size_nm,) * 3
    return SimulatedStack(
        image=Volume(image, size),
        labels=Volume(built.labels, size, class_names=CLASS_NAMES),
        instances=Volume(built.instances, size),
        organelles=Volume(built.organelles, size),
        boundaries=Volume(boundaries, size),
        objects=built.objects,
    )


def packed_bodies(rng: np.random.Generator, parameters: SceneParameters) -> list[StarBody]:
    """Bodies that press on their neighbours, as many as the volume takes.

    Centres are thrown at random, not closer than `_SPACING` diameters, until 300 throws in a row
    find no place. They lie in the volume or just outside.
    """
    extent = np.array(parameters.extent_nm)
    radius = np.mean(parameters.cell_semi_axes_nm, 1)
    centres: list[np.ndarray] = []
    misses = 0
    while misses < 300:
        centre = rng.uniform(-0.4 * radius, extent + 0.4 * radius)
        apart = [np.linalg.norm((centre - other) / radius) for other in centres]
        misses += 1
        if min(apart, default=np.inf) >= 2 * _SPACING:
            centres.append(centre)
            misses = 0
    return [
        random_star_body(
            rng,
            centre,
            np.array([draw(rng, interval) for interval in parameters.cell_semi_axes_nm]),
            random_rotation(rng),
            deformation=parameters.cell_deformation,
            roughness=parameters.cell_roughness,
        )
        for centre in centres
    ]


def boundaries_of(instances: np.ndarray) -> np.ndarray:
    """Voxels of cells that have a neighbour in their slice which is not of the cell.

    Args:
      instances: [z, y, x] or [y, x] ids, 0 is outside.

    Returns:
      bool of the same shape.
    """
    return id_borders(instances) & (instances > 0)


def _look(
    rng: np.random.Generator, built: Scene, *, voxel_nm: float, microscope: MicroscopeParameters
) -> np.ndarray:
    """[z, y, x] uint8 brightness, slice by slice."""
    shape = built.instances.shape
    thicker = max(0, round(microscope.membrane_nm / voxel_nm / 2) - 1)
    gain, offset = microscope.brightness_variation * rng.standard_normal((2, shape[0]))
    image = np.empty(shape, np.uint8)
    contacts = _seen_contacts(rng, shape, voxel_nm, microscope)
    for z, (cells, seen) in enumerate(zip(built.instances, contacts, strict=True)):
        contact = _thicker(id_borders(cells, between_objects=True), thicker + 1)
        weight = _thicker(id_borders(cells), thicker) * np.where(contact, seen, 1)
        inside = np.where(built.labels[z] == FILOPODIUM, 0, built.organelles[z])
        weight = np.maximum(weight, _ENVELOPE * id_borders(inside))
        brightness = built.absorption[z] + weight * (_LINE - built.absorption[z])
        brightness = ndimage.gaussian_filter(brightness, microscope.blur_px)
        brightness += microscope.noise * rng.standard_normal(cells.shape, np.float32)
        brightness += gain[z] * (brightness - 0.5) + offset[z]
        image[z] = np.clip(np.rint(255 * brightness), 0, 255)
    return image


def _thicker(mask: np.ndarray, n: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=n) if n else mask


def _seen_contacts(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    voxel_nm: float,
    microscope: MicroscopeParameters,
) -> Iterator[np.ndarray]:
    """[y, x] float32 of each slice, from 0 to 1: how well a line between two cells is seen."""
    step = microscope.contact_patch_nm / voxel_nm
    coarse = ndimage.gaussian_filter(
        rng.standard_normal([math.ceil(n / step) + 4 for n in shape]), 0.6
    )
    level = np.quantile(coarse, microscope.faint_contacts)
    sharp = np.clip(0.5 + 3 * (coarse - level) / coarse.std(), 0, 1).astype(np.float32)
    depth, *plane = (np.arange(n) / step + 1 for n in shape)
    for z in depth:
        yield ndimage.map_coordinates(sharp, np.meshgrid([z], *plane, indexing='ij'), order=1)[0]
