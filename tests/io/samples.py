"""Small volumes and file writers that the tests of `io` share."""

from __future__ import annotations

import numpy as np

VOXEL_SIZE_NM = (35.31, 4.6, 30.23)
FORMATS = ('.tif', '.mrc', '.h5', '.zarr', '.npy', '.npz', '.nrrd')


def ramp(shape: tuple[int, ...] = (5, 6, 7), dtype: str = 'u1') -> np.ndarray:
    """A volume in which every axis and voxel can be told apart (values below 256)."""
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype)


def noise(shape: tuple[int, ...], dtype: str = 'u1') -> np.ndarray:
    """Incompressible values from 0 to 255."""
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def amira_header(
    shape: tuple[int, int, int],
    *,
    kind: str = 'byte',
    coding: str = '',
    start: str = '# AmiraMesh BINARY-LITTLE-ENDIAN 2.1',
    box: str = '0 600 0 250 0 400',
    unit: str = 'nm',
) -> bytes:
    """Text of an AmiraMesh label field up to its data."""
    z, y, x = shape
    units = f'Units {{ Coordinates "{unit}" }}' if unit else ''
    return f"""{start}

define Lattice {x} {y} {z}

Parameters {{
    Materials {{
        Exterior {{ Color 0 0 0, Id 1 }}
        Cell {{ Id 2, Color 1 0 0 }}
        Nucleus {{
            Color 0 0 1
        }}
    }}
    {units}
    Content "{x}x{y}x{z} byte, uniform coordinates",
    BoundingBox {box},
    CoordType "uniform"
}}

Lattice {{ {kind} Labels }} @1{coding}

# Data section follows
@1
""".encode()


def run_lengths(data: bytes) -> bytes:
    """HxByteRLE of bytes: repeats as (n, value), others copied as (n + 128, values)."""
    result, i = bytearray(), 0
    while i < len(data):
        n = 1
        while i + n < len(data) and data[i + n] == data[i] and n < 127:
            n += 1
        if n > 1:
            result += bytes([n, data[i]])
        else:
            while i + n < len(data) and data[i + n] != data[i + n - 1] and n < 127:
                n += 1
            result += bytes([128 + n]) + data[i : i + n]
        i += n
    return bytes(result)
