"""Simulated tomograms of cells with exact truth about every voxel and object.

`simulate` paints a scene (`SceneParameters`), takes its tilt series and reconstructs it
(`ImagingParameters`); `t_cell` and `adherent_cell` are ready-made. The tilt axis is y. `tissue` is
a block of touching cells as a FIB-SEM shows it.
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
from sxt_jax.data.phantom.tissue import (
    MicroscopeParameters,
    SimulatedStack,
    boundaries_of,
    simulate_stack,
    tissue,
    tissue_parameters,
)

__all__ = [
    'CELL_CLASSES',
    'CLASS_NAMES',
    'TASKS',
    'Absorption',
    'ImagingParameters',
    'MicroscopeParameters',
    'Scene',
    'SceneParameters',
    'SimulatedStack',
    'SimulatedTomogram',
    'adherent_cell',
    'adherent_cell_parameters',
    'boundaries_of',
    'build_scene',
    'merge_labels',
    'reconstruct',
    'simulate',
    'simulate_stack',
    't_cell',
    't_cell_parameters',
    'tilt_series',
    'tissue',
    'tissue_parameters',
]
