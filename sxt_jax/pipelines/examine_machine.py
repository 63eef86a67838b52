"""Examine the machine: versions, devices, file formats, and whether a kernel is right and fast."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from sxt_jax.core.atomic import check_writable
from sxt_jax.core.devices import usable_cores
from sxt_jax.core.errors import InputError
from sxt_jax.core.memory import host_bytes
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.ops.conv import conv

PACKAGES = (
    'sxt_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'scipy',
    'scikit-image', 'tifffile', 'mrcfile', 'h5py', 'tensorstore', 'pynrrd',
)  # fmt: skip
FORMATS = ('.tif', '.mrc', '.h5', '.zarr', '.npy', '.nrrd')
_AMIRA_HEADER = """# AmiraMesh BINARY-LITTLE-ENDIAN 2.1
define Lattice 5 4 3
Parameters { Units { Coordinates "nm" } BoundingBox 0 40 0 30 0 40, CoordType "uniform" }
Lattice { short Data } @1
@1
"""  # the box spans voxel centres: 40 nm over 5 voxels of 10 nm along x
_GIB = 2**30
_LARGE_PAGES = Path('/sys/kernel/mm/transparent_hugepage/enabled')
_REQUEST = 'glibc.malloc.hugetlb=1'  # of memory in large pages, from glibc 2.35


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      topic: what it belongs to, e.g. 'formats'.
      name: what was looked at.
      found: what is there, or what is wrong, in words.
      works: False where something is broken that the package needs.
    """

    topic: str
    name: str
    found: str
    works: bool = True


def examine_machine(*, kernel_side: int = 64) -> list[Finding]:
    """Look at everything the package needs; a failure is a finding, never an exception.

    Args:
      kernel_side: voxels along each axis of the timed convolution.
    """
    return [
        *examine_versions(),
        *examine_devices(),
        examine_compilation_cache(),
        *(examine_format(suffix) for suffix in FORMATS),
        examine_amira(),
        *examine_kernel(side=kernel_side),
    ]


def examine_versions() -> list[Finding]:
    """Python and the packages that matter, with a word where one is missing."""
    findings = [Finding('versions', 'python', platform.python_version())]
    for name in PACKAGES:
        try:
            findings.append(Finding('versions', name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding('versions', name, 'not installed: pip install -e .', False))
    return findings


def examine_devices() -> list[Finding]:
    """Processor cores, memory, and what JAX computes on."""
    findings = [
        Finding('machine', 'CPU cores', str(usable_cores())),
        Finding('machine', 'memory', _host_memory()),
    ]
    try:
        devices = jax.devices()
    except RuntimeError as error:
        return [*findings, Finding('machine', 'JAX devices', f'none: {error}', False)]
    for device in devices:
        limit = (device.memory_stats() or {}).get('bytes_limit')
        memory = f', {limit / _GIB:.1f} GiB for JAX' if limit else ''
        kind = f'{device.device_kind} ({device.platform}){memory}'
        findings.append(Finding('machine', f'JAX device {device.id}', kind))
    if devices[0].platform == 'cpu':
        if Path('/proc/driver/nvidia/version').exists():
            advice = "JAX does not see it: pip install -e '.[cuda]'"
            findings.append(Finding('machine', 'NVIDIA driver', advice, False))
        findings += examine_large_pages()
    return findings


def examine_large_pages() -> list[Finding]:
    """Whether what a CPU computes in comes in large pages; nothing where that cannot be told.

    What fresh pages of usual size cost in training is told in benchmarks/README.md.
    """
    library, version = platform.libc_ver()
    try:
        mode = re.search(r'\[(always|madvise|never)\]', _LARGE_PAGES.read_text())
    except OSError:  # no Linux
        return []
    if mode is None or library != 'glibc':
        return []
    on_request = mode[1] == 'madvise'
    found = 'on request' if on_request else mode[1]
    if on_request and tuple(map(int, version.split('.')[:2])) >= (2, 35):
        if _REQUEST in os.environ.get('GLIBC_TUNABLES', ''):
            found += ', requested'
        else:
            found += f': with GLIBC_TUNABLES={_REQUEST} in the environment training is faster'
    return [Finding('machine', 'large pages', found)]


def examine_compilation_cache() -> Finding:
    """Where compiled programs are kept, so that the next start is quick."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    name = 'compilation cache'
    if not folder:
        return Finding('machine', name, 'none: every start compiles anew')
    try:
        check_writable(folder)
        return Finding('machine', name, folder)
    except InputError as error:
        return Finding('machine', name, f'{folder}: {error.found}', False)


def examine_format(suffix: str) -> Finding:
    """Write a small volume in a temporary folder, read it back, compare voxels and voxel size."""
    return _examine_round_trip(suffix, write_volume)


def examine_amira() -> Finding:
    """Read a small AmiraMesh file, a format that is never written."""

    def write(path: Path, volume: Volume) -> None:
        path.write_bytes(_AMIRA_HEADER.encode() + volume.data.astype('<i2').tobytes())

    finding = _examine_round_trip('.am', write)
    return dataclasses.replace(finding, found=f'{finding.found} (AmiraMesh, read only)')


def _examine_round_trip(suffix: str, write: Callable[[Path, Volume], None]) -> Finding:
    data = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)  # a dtype all formats store
    volume = Volume(data, voxel_size_nm=(20.0, 10.0, 10.0))
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'volume{suffix}'
            write(path, volume)
            back = read_volume(path)
    except Exception as error:  # whatever is wrong is what the user asked to be told
        return Finding('formats', suffix, f'{type(error).__name__}: {error}', False)
    if back.data.dtype != data.dtype or not np.array_equal(back.data, data):
        return Finding('formats', suffix, 'other voxels came back than were written', False)
    if back.voxel_size_nm is None:
        return Finding('formats', suffix, 'works; does not keep the voxel size')
    if not np.allclose(back.voxel_size_nm, (20.0, 10.0, 10.0), rtol=1e-6):
        wrong = f'voxel size {back.voxel_size_nm} came back instead of (20, 10, 10) nm'
        return Finding('formats', suffix, wrong, False)
    return Finding('formats', suffix, 'works')


def examine_kernel(*, side: int = 64, channels: int = 32) -> list[Finding]:
    """Check a 3-D convolution against SciPy, then time it forwards and backwards."""
    error = _kernel_error()
    if not error < 1e-2:
        wrong = f'off by {error:.2g} (relative) from SciPy: do not trust results of this machine'
        return [Finding('kernel', '3-D convolution', wrong, False)]
    x = jnp.ones((1, side, side, side, channels))
    kernel = jnp.ones((3, 3, 3, channels, channels))
    gradients = jax.grad(lambda x, k: jnp.sum(jnp.square(conv(x, k))), argnums=(0, 1))
    work = 2 * 27 * channels**2 * side**3
    shape = f'{side}³ × {channels} → {channels} channels'
    return [
        Finding('kernel', '3-D convolution', f'right (relative difference to SciPy {error:.1g})'),
        Finding(
            'kernel', 'forward', f'{work / _seconds(conv, x, kernel) / 1e9:.0f} GFLOP/s, {shape}'
        ),
        Finding(
            'kernel',
            'forward + backward',
            f'{3 * work / _seconds(gradients, x, kernel) / 1e9:.0f} GFLOP/s',
        ),
    ]


def _kernel_error() -> float:
    """Largest difference to SciPy, relative to the largest value; accelerators may use TF32."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 8, 7)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3)).astype(np.float32)
    found = conv(jnp.asarray(x)[None, ..., None], jnp.asarray(kernel)[..., None, None])[0, ..., 0]
    expected = scipy.ndimage.correlate(x, kernel, mode='constant')
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def _seconds(function: Callable[..., object], *arguments: jax.Array, repeats: int = 3) -> float:
    """Fastest of some runs, after one that compiles."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def _host_memory() -> str:
    total = host_bytes()
    return 'unknown' if total is None else f'{total / _GIB:.1f} GiB'
