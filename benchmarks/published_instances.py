"""Reconstruction of instances as Cellpose3D published it, to compare with.

Written from a description of `cellpose_flowcontrol` in utils/postprocessing.py of
stegmaierj/Cellpose3D (e2f8cb49; Eschweiler, Smith and Stegmaier 2022), step for step and loop for
loop: PyTorch moves the voxels, SciPy and scikit-image do the rest, and each region is judged by
itself. Here alone flows point away from the centroid, as published.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage import measure, morphology

# Distance from the centroid, in voxels, over which the published flows rise to 0.76.
FLOW_WIDTH = 5.0


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The published ones; names in brackets are theirs.

    Attributes:
      n_steps: [niter] of Euler's method.
      min_diameter, max_diameter: of cells, in voxels.
      smoothing: [smoothing_var] standard deviation of the Gaussian, 0: none.
      normalise: [normalize_flows] divide flows by the largest absolute component.
      threshold: [fg_thresh] foreground above it.
      min_foreground_share: [fg_overlap_thresh] of an instance.
      max_flow_error: [flow_thresh] of an instance.
      min_axis_ratio: [convexity_thresh] of an instance.
    """

    n_steps: int = 100
    min_diameter: int = 6
    max_diameter: int = 60
    smoothing: float = 1.0
    normalise: bool = True
    threshold: float = 0.5
    min_foreground_share: float = 0.5
    max_flow_error: float = 0.5
    min_axis_ratio: float = 0.1


def reconstruct(
    foreground: np.ndarray,
    flows: np.ndarray,
    parameters: Parameters,
    *,
    device: str = 'cpu',
) -> np.ndarray:
    """Instances of foreground and flows.

    Args:
      foreground: [z, y, x] float32.
      flows: [3, z, y, x] float32, away from the centroid.
      parameters: how.
      device: of PyTorch.

    Returns:
      [z, y, x] integers, numbered in raster order, 0 for none.
    """
    flows = _prepare(flows, parameters)
    ends = _track(torch.from_numpy(flows).to(device), parameters.n_steps).cpu().numpy()
    reached = np.zeros(foreground.shape, bool)
    reached[tuple(ends)] = True
    ball = morphology.ball(parameters.min_diameter // 2)
    closed = ndimage.binary_erosion(ndimage.binary_dilation(reached, ball), ball, border_value=True)
    components = measure.label(closed, connectivity=3)
    instances = components[tuple(ends)]
    widened = ndimage.binary_dilation(foreground > parameters.threshold, ball)
    instances = _drop_by_size(instances, widened, parameters)
    instances = _drop_by_flow_and_shape(instances, flows, parameters)
    return measure.label(instances, connectivity=3)


def _prepare(flows: np.ndarray, parameters: Parameters) -> np.ndarray:
    flows = flows.astype(np.float32)
    if parameters.normalise:
        flows = flows / np.abs(flows).max()
    if not parameters.smoothing:
        return flows
    smooth = [ndimage.gaussian_filter(part, parameters.smoothing) for part in flows]
    return np.stack(smooth)


def _track(flows: torch.Tensor, n_steps: int) -> torch.Tensor:
    """[3, z, y, x] int64 voxels in which the paths of all voxels end."""
    shape = flows.shape[1:]
    sides = [torch.arange(n, dtype=torch.float32, device=flows.device) for n in shape]
    places = list(torch.meshgrid(*sides, indexing='ij'))
    for _ in range(n_steps):
        z, y, x = (place.long() for place in places)
        places = [
            torch.clip(place - part[z, y, x], 0, n - 1)
            for place, part, n in zip(places, flows, shape, strict=True)
        ]
    return torch.stack([place.long() for place in places])


def _drop_by_size(
    instances: np.ndarray, foreground: np.ndarray, parameters: Parameters
) -> np.ndarray:
    """Without instances that are too small, too large, or too little in the foreground."""
    smallest = 4 / 3 * math.pi * (parameters.min_diameter / 2) ** 3
    largest = 4 / 3 * math.pi * (parameters.max_diameter / 2) ** 3
    kept = np.zeros_like(instances)
    for region in measure.regionprops(instances):
        share = foreground[region.slice][region.image].mean()
        if smallest <= region.area <= largest and share >= parameters.min_foreground_share:
            kept[region.slice][region.image] = region.label
    return kept


def _drop_by_flow_and_shape(
    instances: np.ndarray, flows: np.ndarray, parameters: Parameters
) -> np.ndarray:
    """Without instances whose flows are not those of their shape, and without flat ones."""
    kept = np.zeros_like(instances)
    for region in measure.regionprops(instances):
        away = region.coords - np.array(region.centroid)
        found = flows[:, *region.coords.T].T
        error = np.abs(np.tanh(away / FLOW_WIDTH) - found).mean()
        if error <= parameters.max_flow_error and _axis_ratio(region) >= parameters.min_axis_ratio:
            kept[region.slice][region.image] = region.label
    return kept


def _axis_ratio(region: Any) -> float:
    """Shortest by longest axis; scikit-image's formulas, but for roots of rounding errors."""
    a, b, c = region.inertia_tensor_eigvals
    return math.sqrt(max(b + c - a, 0) / (a + b - c)) if a > 0 else 0.0
