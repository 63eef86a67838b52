"""OpenCV's `resize` of slices in plain loops over voxels, and Biomedisa's use of it on volumes."""

from __future__ import annotations

import numpy as np


def terms(n, m, kind):
    """For each new voxel the old voxels it is made of, and their weights."""
    scale = 1 / (m / n)
    for i in range(m):
        if kind == 'area':
            low, high = i * scale, min((i + 1) * scale, n)
            parts = {k: min(high, k + 1) - max(low, k) for k in range(n)}
            yield {k: part / (high - low) for k, part in parts.items() if part > 1e-3}
        elif kind == 'ramp':
            k = int(np.floor(i * scale))
            share = (i + 1) - (k + 1) * (m / n)
            share = share - np.floor(share) if share > 0 else 0
            yield {k: 1 - share, k + 1: share} if k < n - 1 and share else {min(k, n - 1): 1.0}
        else:
            yield _cubic_terms((i + 0.5) * scale - 0.5, n)


def _cubic_terms(at, n):
    weights = {}
    for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
        d, a = abs(at - k), -0.75
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
        inside = min(max(k, 0), n - 1)
        weights[inside] = weights.get(inside, 0) + (near if d <= 1 else far)
    return weights


def resize_slice(image, shape, area):
    """[y, x] at another shape; masks (uint8) rounded."""
    grows = any(m > n for n, m in zip(image.shape, shape, strict=True))
    kind = 'cubic' if not area else 'ramp' if grows else 'area'
    (h, w), mask = image.shape, image.dtype == np.uint8
    rows, columns = list(terms(h, shape[0], kind)), list(terms(w, shape[1], kind))
    if mask and kind == 'ramp':
        return _ramp_in_fixed_point(image, rows, columns)
    wide = np.stack([sum(v * image[:, k] for k, v in t.items()) for t in columns], 1)
    result = np.stack([sum(v * wide[k] for k, v in t.items()) for t in rows])
    if not mask:
        return result.astype(np.float32)
    up = kind == 'area' and (h, w) == (2 * shape[0], 2 * shape[1])
    return (result > (0.5 - 1e-7 if up else 0.5 + 1e-7)).astype(np.uint8)


def _ramp_in_fixed_point(mask, rows, columns):
    wide = [sum(int(np.rint(2048 * v)) * mask[:, k].astype(int) for k, v in t.items())
            for t in columns]  # fmt: skip
    wide = np.stack(wide, 1) >> 4
    result = [sum((int(np.rint(2048 * v)) * wide[k]) >> 16 for k, v in t.items()) for t in rows]
    return ((np.stack(result) + 2) >> 2).astype(np.uint8)


def resize_volume(volume, shape):
    """[z, y, x]: its slices [y, x], then the slices [z, x] of the result."""
    area = any(m < n for n, m in zip(volume.shape, shape, strict=True))
    volume = np.stack([_resized(plane, shape[1:], area) for plane in volume])
    planes = [_resized(volume[:, y], (shape[0], shape[2]), area) for y in range(shape[1])]
    return np.stack(planes, 1)


def _resized(plane, shape, area):
    return plane if plane.shape == tuple(shape) else resize_slice(plane, shape, area)


def resize_classes(classes, shape):
    """Mask by mask, later classes on top."""
    result = np.zeros(shape, classes.dtype)
    for k in range(1, classes.max() + 1):
        result[resize_volume((classes == k).astype(np.uint8), shape) == 1] = k
    return result
