"""Tests run on the CPU with eight fake devices, so that sharding is tested everywhere."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
flags = os.environ.get('XLA_FLAGS', '')
if 'xla_force_host_platform_device_count' not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count=8'.strip()
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.expanduser('~/.cache/sxt_jax/xla-tests'))

# What a shell starts in the background ignores interruptions, and so would the processes that tests
# start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every compiled program holds some maps of memory; Linux gives a process 65,530, and beyond them
# XLA dies of a segmentation fault while it compiles.
MOST_MAPS = 20_000


@pytest.fixture(scope='module', autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs are dropped after a module of tests, once there are many."""
    yield
    maps = Path('/proc/self/maps')
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        import jax

        jax.clear_caches()
