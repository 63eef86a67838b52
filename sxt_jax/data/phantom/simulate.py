"""Simulated cryo soft X-ray tomograms: a scene, its tilt series, and the reconstruction from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sxt_jax.core.volume import Volume
from sxt_jax.data.phantom import optics
from sxt_jax.data.phantom.classes import CLASS_NAMES
from sxt_jax.data.phantom.parameters import ImagingParameters, SceneParameters
from sxt_jax.data.phantom.scene import Scene, build_scene
from sxt_jax.ops import tomography


@dataclasses.dataclass(frozen=True)
class SimulatedTomogram:
    """A reconstructed tomogram with the truth behind it, all on one grid.

    Attributes:
      image: float32 reconstructed LAC in µm⁻¹.
      labels: uint8 classes, see `CLASS_NAMES`; `merge_labels` gives those of a task.
      instances: int32, each cell (1, 2, …, filopodia included) and each bead (following numbers).
      organelles: int32, each nucleus, nucleolus, mitochondrion, lipid droplet, vacuole and
        filopodium; numbers go on from those of `instances`, so a number means one object in both.
      absorption: float32 true LAC in µm⁻¹.
      objects: one row an object, as columns: `label`; `class_id` and `class_name` ('cells' for
        whole cells); `cell` the object belongs to (0: none); `complete`, whether its body is
        wholly in the volume and no other object took a part of it; `n_voxels` with its label
        (0 for what is thinner than a voxel); `volume_um3` without objects nested inside (a cell
        has everything), exact for complete objects, otherwise of the part in the volume;
        `surface_um2` of the body (of a cell without filopodia; nan unless complete);
        `centroid_{z,y,x}_nm`; `{major,middle,minor}_axis_nm`, full lengths of the undeformed
        body; `material_lac_per_um` it is made of, `mean_lac_per_um` over its voxels.
      tilt_series: [view, y, u] float32 optical depth the image was reconstructed from; of a grid or
        no container, above that of the ice.
      tilt_deg: [view] tilts.
    """

    image: Volume
    labels: Volume
    instances: Volume
    organelles: Volume
    absorption: Volume
    objects: Mapping[str, np.ndarray]
    tilt_series: np.ndarray
    tilt_deg: np.ndarray


def simulate(seed: int, *, scene: SceneParameters, imaging: ImagingParameters) -> SimulatedTomogram:
    """Simulate one tomogram; the same seed and parameters give the same bits on the same machine.

    Args:
      seed: non-negative; other seeds give other scenes, misalignments and noise.
      scene: what is imaged.
      imaging: how it is imaged and reconstructed.
    """
    scene_seed, imaging_seed = np.random.SeedSequence(seed).spawn(2)
    built = build_scene(np.random.default_rng(scene_seed), scene)
    series = tilt_series(
        np.random.default_rng(imaging_seed), built.absorption, scene=scene, imaging=imaging
    )
    image = np.asarray(reconstruct(series, scene=scene, imaging=imaging))
    return _collect(built, image, series, scene=scene, imaging=imaging)


def _surrounding_lac(scene: SceneParameters) -> float:
    """LAC of what goes on beyond the volume: vacuum around a capillary, ice otherwise."""
    return 0.0 if scene.container == 'capillary' else scene.absorption.ice


def tilt_series(
    rng: np.random.Generator,
    absorption: np.ndarray,
    *,
    scene: SceneParameters,
    imaging: ImagingParameters,
) -> np.ndarray:
    """Tilt series of a scene as the microscope records it.

    Args:
      rng: source of misalignment and photon noise.
      absorption: [z, y, x] LAC in µm⁻¹.
      scene: its voxel size and container.
      imaging: tilts, optics and photons.

    Returns:
      [view, y, u] float32 optical depth, above that of the ice where the ice has no end.
    """
    angles = optics.tilt_angles(imaging)
    voxel_um, around = scene.voxel_size_nm * 1e-3, _surrounding_lac(scene)
    slabs = tomography.slab_centres(scene.shape, imaging.n_depth_slabs)
    sigmas = optics.blur_sigma_nm(imaging, slabs * scene.voxel_size_nm) / scene.voxel_size_nm
    shifts = rng.normal(0, imaging.jitter_px, (imaging.n_views, 2))
    depths = optics.optical_depths(
        jnp.asarray((absorption - np.float32(around)) * np.float32(voxel_um)),
        jnp.asarray(angles, jnp.float32),
        jnp.asarray(shifts, jnp.float32),
        jnp.asarray(slabs, jnp.float32),
        jnp.asarray(sigmas, jnp.float32),
        n_detector=tomography.detector_width(scene.shape, angles),
    )
    if imaging.photons_per_pixel is None:
        return np.asarray(depths)
    thickness = scene.shape[0] * voxel_um if scene.container == 'grid' else 0.0
    return optics.photon_noise(
        rng,
        np.asarray(depths),
        photons=imaging.photons_per_pixel,
        surrounding_depth=around * thickness / np.maximum(np.cos(angles), 0.05),
    )


def reconstruct(
    series: np.ndarray | jax.Array, *, scene: SceneParameters, imaging: ImagingParameters
) -> jax.Array:
    """[z, y, x] float32 LAC in µm⁻¹ from the optical depths of `tilt_series`."""
    angles = optics.tilt_angles(imaging)
    around, voxel_um = _surrounding_lac(scene), scene.voxel_size_nm * 1e-3
    plane, series = (scene.shape[0], scene.shape[2]), jnp.asarray(series)
    angles32 = jnp.asarray(angles, jnp.float32)
    if imaging.method == 'fbp':
        weights = jnp.asarray(tomography.angular_weights(angles), jnp.float32)
        depth = tomography.filtered_backprojection(
            series, angles32, weights, plane=plane, filter_name=imaging.filter_name
        )
    else:
        lowest = jnp.asarray(-around * voxel_um, jnp.float32)  # no LAC below 0
        depth, _ = tomography.sirt(
            series, angles32, plane=plane, n_iterations=imaging.n_iterations, minimum=lowest
        )
    return depth / np.float32(voxel_um) + np.float32(around)


def _collect(
    built: Scene,
    image: np.ndarray,
    series: np.ndarray,
    *,
    scene: SceneParameters,
    imaging: ImagingParameters,
) -> SimulatedTomogram:
    size = (scene.voxel_size_nm,) * 3
    return SimulatedTomogram(
        image=Volume(image, size),
        labels=Volume(built.labels, size, class_names=CLASS_NAMES),
        instances=Volume(built.instances, size),
        organelles=Volume(built.organelles, size),
        absorption=Volume(built.absorption, size),
        objects=built.objects,
        tilt_series=series,
        tilt_deg=np.rad2deg(optics.tilt_angles(imaging)),
    )
