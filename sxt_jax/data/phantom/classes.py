"""Classes of the simulated labels, fixed, and how they merge into the classes of a task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sxt_jax.core.errors import InputError

BACKGROUND = 0
CYTOPLASM = 1
NUCLEUS = 2
NUCLEOLUS = 3
MITOCHONDRION = 4
LIPID_DROPLET = 5
VACUOLE = 6
MEMBRANE = 7
FILOPODIUM = 8
BEAD = 9
CAPILLARY = 10
SUPPORT_FILM = 11
FIDUCIAL = 12

CLASS_NAMES: Mapping[int, str] = {
    BACKGROUND: 'background',
    CYTOPLASM: 'cytoplasm',
    NUCLEUS: 'nucleus',
    NUCLEOLUS: 'nucleolus',
    MITOCHONDRION: 'mitochondria',
    LIPID_DROPLET: 'lipid droplets',
    VACUOLE: 'vacuoles',
    MEMBRANE: 'plasma membrane',
    FILOPODIUM: 'filopodia',
    BEAD: 'beads',
    CAPILLARY: 'capillary',
    SUPPORT_FILM: 'support film',
    FIDUCIAL: 'fiducials',
}
"""Label value → name. Background is ice and, outside a capillary, vacuum."""

CELL_CLASSES = (
    CYTOPLASM,
    NUCLEUS,
    NUCLEOLUS,
    MITOCHONDRION,
    LIPID_DROPLET,
    VACUOLE,
    MEMBRANE,
    FILOPODIUM,
)

TASKS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    'acseg': {'cytoplasm': CELL_CLASSES, 'beads': (BEAD,)},
    'cells': {'cell': CELL_CLASSES},
    'organelles': {
        'cytoplasm': (CYTOPLASM, MEMBRANE, FILOPODIUM),
        'nucleus': (NUCLEUS, NUCLEOLUS),
        'mitochondria': (MITOCHONDRION,),
        'lipid droplets': (LIPID_DROPLET,),
        'vacuoles': (VACUOLE,),
    },
    'mitochondria': {'mitochondria': (MITOCHONDRION,)},
    'filopodia': {'filopodia': (FILOPODIUM,)},
}
"""Task → {class name: labels that make it up}; what is not named becomes background.

'acseg' is the task of ACSeg (iScience 27:109856, 2024): the whole cell, and beads.
"""


def merge_labels(
    labels: np.ndarray, task: str | Mapping[str, tuple[int, ...]]
) -> tuple[np.ndarray, dict[int, str]]:
    """Labels of a task from simulated labels.

    Args:
      labels: [z, y, x] values of `CLASS_NAMES`.
      task: name in `TASKS`, or {class name: labels that make it up}.

    Returns:
      [z, y, x] uint8 labels 0 (background), 1, 2, … in the order of the task, and their names.

    Raises:
      InputError: the task is not known.
    """
    if isinstance(task, str):
        if task not in TASKS:
            raise InputError('task', repr(task), f'one of {", ".join(TASKS)}')
        task = TASKS[task]
    table = np.zeros(256, np.uint8)
    for value, members in enumerate(task.values(), start=1):
        table[list(members)] = value
    return table[labels], {0: 'background', **dict(enumerate(task, start=1))}
