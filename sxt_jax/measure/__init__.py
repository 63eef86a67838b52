"""Measures of segmented objects in physical units: shape, surface, absorption, texture, place."""

from sxt_jax.measure.filopodia import Filopodia, filopodia
from sxt_jax.measure.organelles import Within, within
from sxt_jax.measure.repair import is_closed, repair
from sxt_jax.measure.sections import sections
from sxt_jax.measure.surface import Surface, surface_mesh
from sxt_jax.measure.surface_files import write_surface
from sxt_jax.measure.table import classes, objects, volume_and_surface
from sxt_jax.measure.texture import Texture, check_texture, measure_texture
from sxt_jax.measure.z_smoothing import smooth_along_z

__all__ = [
    'Filopodia',
    'Surface',
    'Texture',
    'Within',
    'check_texture',
    'classes',
    'filopodia',
    'is_closed',
    'measure_texture',
    'objects',
    'repair',
    'sections',
    'smooth_along_z',
    'surface_mesh',
    'volume_and_surface',
    'within',
    'write_surface',
]
