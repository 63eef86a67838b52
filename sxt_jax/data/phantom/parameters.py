"""What is simulated: the scene (cells and their surroundings) and how it is imaged."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sxt_jax.core.errors import InputError

Range = tuple[float, float]
Count = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Absorption:
    """Mean linear absorption coefficients (LAC) in µm⁻¹ at 517 eV, in the water window.

    Cell compartments: the middle of ranges published for soft X-ray tomography of mammalian cells
    (for example Parkinson et al. 2008; White et al., Sci. Adv. 6:eabc8262, 2020; Loconte et al.,
    Structure 30:510, 2022). The rest is computed from the elemental cross-sections of Elam (as
    tabulated in xraydb) at 517 eV and the density given.
    """

    ice: float = 0.111  # H2O, 0.93 g/cm³
    cytoplasm: float = 0.21
    nucleus: float = 0.25
    nucleolus: float = 0.33
    mitochondria: float = 0.36
    lipid_droplets: float = 0.65
    vacuoles: float = 0.14
    membrane: float = 0.28
    filopodia: float = 0.24
    beads: float = 1.20  # polystyrene C8H8, 1.05 g/cm³
    capillary: float = 0.96  # glass as SiO2, 2.2 g/cm³
    support_film: float = 2.48  # carbon, 2.0 g/cm³
    fiducials: float = 18.5  # gold, 19.3 g/cm³


@dataclasses.dataclass(frozen=True)
class SceneParameters:
    """Cells and what surrounds them. Ranges are (lowest, highest), drawn uniformly.

    Attributes:
      shape: (z, y, x) voxels; the tilt axis is y, the untilted beam runs along z.
      voxel_size_nm: edge of the cubic voxel.
      container: 'capillary' (glass tube along y, vacuum outside), 'grid' (flat ice on a carbon
        film at low z, going on sideways beyond the volume) or 'none' (ice all around, its even
        absorption already divided out of the views).
      capillary_inner_radius_nm, capillary_wall_nm: of the tube; its axis is shifted at random by up
        to `capillary_shift_nm` in z and x, so that part of the wall may leave the volume.
      support_film_nm: thickness of the carbon film of a grid.
      n_cells: number of cells; they may touch and are then distinct instances.
      adherent: cells lie on the film, cut flat below, with filopodia along it; otherwise they
        float, turned at random.
      cell_semi_axes_nm: range of the semi-axes (z, y, x) before turning; cells that the volume
        cannot hold are drawn smaller.
      cell_deformation, cell_roughness: amplitudes of the long and short waves on the cell surface,
        relative to its radius.
      membrane_nm: thickness of the plasma membrane with its cortex; at least one voxel.
      nucleus_fraction: semi-axes of the nucleus relative to those of its cell.
      n_nucleoli, nucleolus_radius_nm: per cell.
      n_mitochondria, mitochondrion_radius_nm, mitochondrion_length_nm: per cell, curved tubes.
      n_lipid_droplets, lipid_droplet_radius_nm: per cell.
      n_vacuoles, vacuole_radius_nm: per cell.
      n_filopodia, filopodium_radius_nm, filopodium_length_nm: per cell, thin curved rods.
      n_beads, bead_radius_nm: polystyrene beads outside cells.
      n_fiducials, fiducial_radius_nm: gold beads outside cells.
      absorption: mean LAC of each material.
      absorption_variation: relative standard deviation of the LAC between objects.
      texture: strength of the texture inside objects, 1 as seen in cells, 0 for none.
    """

    shape: tuple[int, int, int] = (96, 96, 96)
    voxel_size_nm: float = 100.0
    container: Literal['capillary', 'grid', 'none'] = 'capillary'
    capillary_inner_radius_nm: float = 4600.0
    capillary_wall_nm: float = 350.0
    capillary_shift_nm: float = 500.0
    support_film_nm: float = 20.0
    n_cells: Count = (1, 2)
    adherent: bool = False
    cell_semi_axes_nm: tuple[Range, Range, Range] = ((2400, 3000),) * 3
    cell_deformation: float = 0.08
    cell_roughness: float = 0.02
    membrane_nm: float = 60.0
    nucleus_fraction: Range = (0.66, 0.76)
    n_nucleoli: Count = (1, 2)
    nucleolus_radius_nm: Range = (350, 600)
    n_mitochondria: Count = (6, 12)
    mitochondrion_radius_nm: Range = (140, 220)
    mitochondrion_length_nm: Range = (600, 2000)
    n_lipid_droplets: Count = (2, 6)
    lipid_droplet_radius_nm: Range = (130, 300)
    n_vacuoles: Count = (1, 4)
    vacuole_radius_nm: Range = (180, 380)
    n_filopodia: Count = (8, 20)
    filopodium_radius_nm: Range = (70, 110)
    filopodium_length_nm: Range = (400, 1600)
    n_beads: Count = (1, 3)
    bead_radius_nm: Range = (500, 1000)
    n_fiducials: Count = (0, 0)
    fiducial_radius_nm: Range = (80, 120)
    absorption: Absorption = Absorption()
    absorption_variation: float = 0.05
    texture: float = 1.0

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 16:
            raise InputError('shape', f'{self.shape}', 'three sizes of at least 16 voxels')
        if not self.voxel_size_nm > 0:
            raise InputError('voxel_size_nm', f'{self.voxel_size_nm}', 'a positive size in nm')
        if self.container not in ('capillary', 'grid', 'none'):
            raise InputError('container', repr(self.container), "'capillary', 'grid' or 'none'")

    @property
    def extent_nm(self) -> tuple[float, float, float]:
        """Edges (z, y, x) of the volume in nm."""
        z, y, x = (n * self.voxel_size_nm for n in self.shape)
        return z, y, x


@dataclasses.dataclass(frozen=True)
class ImagingParameters:
    """Microscope, tilt series and reconstruction.

    Attributes:
      n_views: projections, evenly spaced.
      tilt_range_deg: 180 for a full rotation (0 … 180°, end left out), less for ± half of it, ends
        included: 130 is ±65° with a missing wedge.
      photons_per_pixel: photons on each detector pixel (as wide as a voxel) per view without
        sample; None for no noise.
      zone_plate_nm: outermost zone width of the objective; sets resolution and depth of field.
        None for perfect optics.
      energy_ev: photon energy.
      focus_offset_nm: depth of best focus relative to the tilt axis.
      n_depth_slabs: slabs of equal defocus into which the depth is divided.
      jitter_px: standard deviation of the misalignment of views, in pixels along y and u.
      method: 'fbp' (filtered back-projection) or 'sirt'.
      filter_name: filter of 'fbp', from sharp and noisy to smooth: 'ramp', 'cosine' or 'hann'.
      n_iterations: sweeps of 'sirt'.
    """

    n_views: int = 92
    tilt_range_deg: float = 180.0
    photons_per_pixel: float | None = 4000.0
    zone_plate_nm: float | None = 60.0
    energy_ev: float = 517.0
    focus_offset_nm: float = 0.0
    n_depth_slabs: int = 5
    jitter_px: float = 0.3
    method: Literal['fbp', 'sirt'] = 'fbp'
    filter_name: Literal['ramp', 'cosine', 'hann'] = 'cosine'
    n_iterations: int = 30

    def __post_init__(self) -> None:
        if self.n_views < 2:
            raise InputError('n_views', f'{self.n_views}', 'at least 2')
        if not 0 < self.tilt_range_deg <= 180:
            raise InputError('tilt_range_deg', f'{self.tilt_range_deg}', 'above 0, at most 180')
        if self.photons_per_pixel is not None and not self.photons_per_pixel > 0:
            raise InputError('photons_per_pixel', f'{self.photons_per_pixel}', 'positive or None')
        if self.n_depth_slabs < 1:
            raise InputError('n_depth_slabs', f'{self.n_depth_slabs}', 'at least 1')
        if self.filter_name not in ('ramp', 'cosine', 'hann'):
            raise InputError('filter_name', repr(self.filter_name), "'ramp', 'cosine' or 'hann'")
        if self.method not in ('fbp', 'sirt'):
            raise InputError('method', repr(self.method), "'fbp' or 'sirt'")
