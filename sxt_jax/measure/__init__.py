"""Measures of segmented objects in physical units: shape, surface, absorption."""

from sxt_jax.measure.surface import Surface, surface_mesh
from sxt_jax.measure.surface_files import write_surface
from sxt_jax.measure.table import classes, objects, volume_and_surface

__all__ = ['Surface', 'classes', 'objects', 'surface_mesh', 'volume_and_surface', 'write_surface']
