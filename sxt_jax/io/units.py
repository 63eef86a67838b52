"""Units of length as files spell them."""

from __future__ import annotations

from collections.abc import Sequence

from sxt_jax.core.volume import VoxelSize

_NM = {
    'pm': 1e-3, 'picometer': 1e-3,
    'å': 0.1, 'a': 0.1, 'ang': 0.1, 'angstrom': 0.1, 'ångström': 0.1, 'ångstrom': 0.1,
    'nm': 1.0, 'nanometer': 1.0,
    'um': 1e3, 'micron': 1e3, 'micrometer': 1e3,
    'mm': 1e6, 'millimeter': 1e6,
    'cm': 1e7, 'centimeter': 1e7,
    'm': 1e9, 'meter': 1e9,
    'in': 2.54e7, 'inch': 2.54e7,
}  # fmt: skip


def unit_in_nm(unit: object) -> float | None:
    """Length of a unit in nm; None for pixels, nothing, and what is not a length.

    Knows the spellings of ImageJ (`\\u00B5m`, micron), OME, OME-Zarr, Amira and NRRD.
    """
    name = str(unit or '').strip().strip('"')
    name = name.replace('\\u00B5', 'u').replace('\\u00b5', 'u').replace('Âµ', 'u')
    name = name.replace('\N{MICRO SIGN}', 'u').replace('\N{GREEK SMALL LETTER MU}', 'u')
    name = name.replace('\N{ANGSTROM SIGN}', 'å').lower().replace('metre', 'meter')
    for spelling in (name, name.removesuffix('s'), name.removesuffix('es')):
        if spelling in _NM:
            return _NM[spelling]
    return None


def to_voxel_size(sizes: Sequence[float], units: Sequence[object]) -> VoxelSize | None:
    """Three sizes (z, y, x) with their units, in nm; None unless all three are known lengths."""
    result = []
    for size, unit in zip(sizes, units, strict=True):
        nm = unit_in_nm(unit)
        if nm is None or not 0 < float(size) < float('inf'):
            return None
        # Dividing by an exact power of ten keeps decimal sizes exact where multiplying does not.
        result.append(float(size) * nm if nm >= 1 else float(size) / round(1 / nm))
    z, y, x = result
    return z, y, x
