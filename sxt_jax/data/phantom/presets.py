"""Two kinds of tomogram that the published systems were made for, at any size."""

from __future__ import annotations

from sxt_jax.data.phantom.parameters import ImagingParameters, SceneParameters
from sxt_jax.data.phantom.simulate import SimulatedTomogram, simulate

Shape = tuple[int, int, int]


def t_cell_parameters(
    shape: Shape = (96, 96, 96), *, voxel_size_nm: float | None = None
) -> tuple[SceneParameters, ImagingParameters]:
    """T cells and polystyrene beads in a glass capillary, full rotation.

    As in the ACSeg data (iScience 27:109856, 2024): 92 views over 180°, 60 nm zone plate.

    Args:
      shape: (z, y, x) voxels.
      voxel_size_nm: None for a field of 10 µm along the longest edge, which is what one or two
        cells of 5–6 µm take; the capillary just fills the field. Real tomograms have about 32 nm
        and 472³ voxels; the photons on a pixel grow with its area.
    """
    voxel = 10_000 / max(shape) if voxel_size_nm is None else voxel_size_nm
    field = max(shape[0], shape[2]) * voxel
    scene = SceneParameters(
        shape=shape,
        voxel_size_nm=voxel,
        capillary_inner_radius_nm=0.46 * field,
        capillary_shift_nm=0.05 * field,
    )
    return scene, ImagingParameters(photons_per_pixel=_photons(voxel))


def adherent_cell_parameters(
    shape: Shape = (48, 96, 96), *, voxel_size_nm: float | None = None
) -> tuple[SceneParameters, ImagingParameters]:
    """A spread cell with filopodia on a flat grid, ±65° with its missing wedge, SIRT.

    As in the deep_sxt data: steps of 1°, 25 nm zone plate, 510 eV, 30 sweeps of SIRT, gold beads.

    Args:
      shape: (z, y, x) voxels; the film lies across z.
      voxel_size_nm: None for a field of 12 µm along the longest edge.
    """
    voxel = 12_000 / max(shape) if voxel_size_nm is None else voxel_size_nm
    scene = SceneParameters(
        shape=shape,
        voxel_size_nm=voxel,
        container='grid',
        n_cells=(1, 1),
        adherent=True,
        cell_semi_axes_nm=((1800, 2300), (2800, 3800), (4200, 5400)),
        cell_deformation=0.12,
        cell_roughness=0.01,
        nucleus_fraction=(0.36, 0.46),
        n_nucleoli=(1, 3),
        nucleolus_radius_nm=(300, 450),
        n_mitochondria=(18, 32),
        mitochondrion_radius_nm=(130, 220),
        mitochondrion_length_nm=(1000, 3500),
        n_lipid_droplets=(3, 10),
        lipid_droplet_radius_nm=(130, 300),
        n_vacuoles=(3, 8),
        vacuole_radius_nm=(150, 350),
        n_filopodia=(8, 18),
        filopodium_radius_nm=(65, 110),
        filopodium_length_nm=(800, 2500),
        n_beads=(0, 0),
        n_fiducials=(4, 9),
    )
    imaging = ImagingParameters(
        n_views=131,
        tilt_range_deg=130.0,
        photons_per_pixel=_photons(voxel),
        zone_plate_nm=25.0,
        energy_ev=510.0,
        method='sirt',
        n_iterations=30,
    )
    return scene, imaging


def _photons(voxel_size_nm: float) -> float:
    """Photons on a detector pixel as wide as a voxel: 1000 on 32 nm, in proportion to its area."""
    return 1000 * (voxel_size_nm / 32) ** 2


def t_cell(
    seed: int, *, shape: Shape = (96, 96, 96), voxel_size_nm: float | None = None
) -> SimulatedTomogram:
    """Simulate a tomogram of `t_cell_parameters`."""
    scene, imaging = t_cell_parameters(shape, voxel_size_nm=voxel_size_nm)
    return simulate(seed, scene=scene, imaging=imaging)


def adherent_cell(
    seed: int, *, shape: Shape = (48, 96, 96), voxel_size_nm: float | None = None
) -> SimulatedTomogram:
    """Simulate a tomogram of `adherent_cell_parameters`."""
    scene, imaging = adherent_cell_parameters(shape, voxel_size_nm=voxel_size_nm)
    return simulate(seed, scene=scene, imaging=imaging)
