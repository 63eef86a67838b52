"""Voxel size and class names in the ImageJ and OME-XML descriptions of TIFF files."""

from __future__ import annotations

import fractions
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any

import tifffile

from sxt_jax.core.volume import VoxelSize
from sxt_jax.io.layout import Layout, names_from_json, names_to_json
from sxt_jax.io.units import to_voxel_size

_TIFFFILE_IMAGEJ = '1.11a'


def declared_planes(file: Any, series: Any) -> int | None:
    """Number of 2-D planes that ImageJ, OME or tifffile metadata promise; None if none do."""
    if file.is_ome:
        pixels = _ome_pixels(file)
        if pixels is None:
            return None
        c = int(pixels['SizeC']) if series.keyframe.samplesperpixel == 1 else 1
        return int(pixels['SizeZ']) * int(pixels['SizeT']) * c
    if file.is_imagej:
        return int(file.imagej_metadata.get('images', 1))
    shaped = series.keyframe.shaped_description
    if shaped:
        shape = json.loads(shaped)['shape'] if shaped[0] == '{' else _old_shape(shaped)
        return math.prod(int(n) for n in shape) // math.prod(series.keyframe.shape)
    return None


def _old_shape(description: str) -> list[int]:
    """The shape in descriptions `shape=(31, 61, 57)` of early tifffile versions."""
    return [int(n) for n in description.split('(')[1].split(')')[0].split(',') if n.strip()]


def _ome_root(file: Any) -> ElementTree.Element:
    return ElementTree.fromstring(file.ome_metadata)


def _ome_pixels(file: Any) -> Mapping[str, str] | None:
    """Attributes of the first Pixels element, None if there are several images."""
    found = [e for e in _ome_root(file).iter() if e.tag.rpartition('}')[2] == 'Pixels']
    return found[0].attrib if len(found) == 1 else None


def read_voxel_size(file: Any, *, n_slices: int) -> VoxelSize | None:
    """Voxel size (z, y, x) in nm as OME-XML or ImageJ metadata tell it.

    A single slice whose thickness is not told counts as thick as its pixels are high.
    Resolution tags without ImageJ metadata are ignored: they hold printing resolutions.
    """
    if file.is_ome:
        return _ome_voxel_size(file, n_slices)
    if file.is_imagej:
        return _imagej_voxel_size(file, n_slices)
    return None


def _ome_voxel_size(file: Any, n_slices: int) -> VoxelSize | None:
    pixels = _ome_pixels(file)
    if pixels is None or 'PhysicalSizeX' not in pixels or 'PhysicalSizeY' not in pixels:
        return None
    axes = 'ZYX' if 'PhysicalSizeZ' in pixels else 'YYX'
    if axes == 'YYX' and n_slices > 1:
        return None
    return to_voxel_size(
        [float(pixels[f'PhysicalSize{a}']) for a in axes],
        [pixels.get(f'PhysicalSize{a}Unit', 'µm') for a in axes],
    )


def _imagej_voxel_size(file: Any, n_slices: int) -> VoxelSize | None:
    metadata = file.imagej_metadata
    tags = file.pages[0].tags
    if 'XResolution' not in tags or 'YResolution' not in tags:
        return None
    (nx, dx), (ny, dy) = tags['XResolution'].value, tags['YResolution'].value
    if not (nx and dx and ny and dy):
        return None
    x, y = dx / nx, dy / ny
    spacing = metadata.get('spacing')
    if spacing is None:
        if n_slices == 1:
            spacing = y
        elif metadata.get('ImageJ') != _TIFFFILE_IMAGEJ:
            spacing = 1.0  # ImageJ leaves a spacing of one unit out
        else:
            return None
    unit = metadata.get('unit')
    units = [metadata.get('zunit', unit), metadata.get('yunit', unit), unit]
    return to_voxel_size([abs(float(spacing)), y, x], units)


def read_class_names(file: Any) -> dict[int, str] | None:
    """Names of label values that this package wrote into the description."""
    text = None
    if file.is_ome:
        marks = [e for e in _ome_root(file).iter() if e.attrib.get('K') == 'class_names']
        text = marks[0].text if marks else None
    elif file.is_imagej:
        text = file.imagej_metadata.get('class_names')
    return names_from_json(text if isinstance(text, str) else None)


def imagej_description(layout: Layout) -> str:
    """ImageJ description of a stack of pages [z, c]."""
    z, c = layout.shape[0], layout.n_channels
    lines = [f'ImageJ={_TIFFFILE_IMAGEJ}', f'images={z * c}']
    lines += [f'channels={c}'] if c > 1 else []
    lines += [f'slices={z}', 'hyperstack=true', f'mode={"composite" if c > 1 else "grayscale"}']
    if layout.voxel_size_nm is not None:
        lines += ['unit=nm', f'spacing={layout.voxel_size_nm[0]!r}']
    lines += ['loop=false']
    if layout.class_names:
        lines += [f'class_names={names_to_json(layout.class_names)}']
    return '\n'.join(lines) + '\n'


def resolution_tags(layout: Layout) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """X and Y resolution in pixels per nm as rationals of 32-bit integers."""
    if layout.voxel_size_nm is None:
        return None
    _, y, x = layout.voxel_size_nm
    return _rational(x), _rational(y)


def _rational(size: float) -> tuple[int, int]:
    """1/size, nearest with numerator and denominator below 2³²."""
    limit = 2**32 - 1
    exact = fractions.Fraction(size)  # denominator of the tag on top
    if exact > 1:  # the greater of the two is what must stay below the limit
        near = 1 / (1 / exact).limit_denominator(limit)
    else:
        near = exact.limit_denominator(limit)
    return near.denominator, near.numerator


def ome_description(layout: Layout) -> bytes:
    """OME-XML of a stack of pages [z, c]."""
    z, y, x = layout.shape[:3]
    c = layout.n_channels
    facts: dict[str, Any] = {}
    if layout.voxel_size_nm is not None:
        for axis, size in zip('ZYX', layout.voxel_size_nm, strict=True):
            facts[f'PhysicalSize{axis}'] = repr(size)
            facts[f'PhysicalSize{axis}Unit'] = 'nm'
    if layout.class_names:
        facts['MapAnnotation'] = {'class_names': names_to_json(layout.class_names)}
    shape, axes = ((z, c, y, x), 'ZCYX') if 'c' in layout.axes else ((z, y, x), 'ZYX')
    xml = tifffile.OmeXml()
    xml.addimage(layout.dtype, shape, (z * c, 1, 1, y, x, 1), axes=axes, **facts)
    return xml.tostring(declaration=True).encode()
