"""Simulated cryo soft X-ray tomograms of cells with exact truth about every voxel and object.

`simulate` paints a scene (`SceneParameters`), takes its tilt series and reconstructs it
(`ImagingParameters`); `t_cell` and `adherent_cell` are ready-made. The tilt axis is y.
"""

from sxt_jax.data.phantom.classes import CELL_CLASSES, CLASS_NAMES, TASKS, merge_labels
from sxt_jax.data.phantom.parameters import Absorption, ImagingParameters, SceneParameters
from sxt_jax.data.phantom.presets import (
    adherent_cell,
    adherent_cell_parameters,
    t_cell,
    t_cell_parameters,
)
from sxt_jax.data.phantom.scene import Scene, build_scene
from sxt_jax.data.phantom.simulate import SimulatedTomogram, reconstruct, simulate, tilt_series

__all__ = [
    'CELL_CLASSES',
    'CLASS_NAMES',
    'TASKS',
    'Absorption',
    'ImagingParameters',
    'Scene',
    'SceneParameters',
    'SimulatedTomogram',
    'adherent_cell',
    'adherent_cell_parameters',
    'build_scene',
    'merge_labels',
    'reconstruct',
    'simulate',
    't_cell',
    't_cell_parameters',
    'tilt_series',
]
