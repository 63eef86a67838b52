"""Memory of the host: how much there is, and how much of it may still be taken."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

_CGROUPS = Path('/sys/fs/cgroup')
# Of versions 2 and 1: limit, use, and the row of memory.stat with the part that is given back.
_FILES = (
    ('memory.max', 'memory.current', 'inactive_file'),
    ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
)
_SHARE_OF_MEMORY = 0.5
_MEMINFO = Path('/proc/meminfo')


def host_bytes() -> int | None:
    """Memory that this process may use in all; None where the system does not tell.

    That of the machine, or less where a job or a container has a limit (Linux control groups).
    """
    known = [_of_machine(), *(limit for limit, _ in _limits())]
    return min((n for n in known if n is not None), default=None)


def free_host_bytes() -> int | None:
    """Memory that can be taken now, caches of files counted as free; None where nothing is told."""
    known = [_available(), *(max(0, limit - used) for limit, used in _limits())]
    return min((n for n in known if n is not None), default=None)


def fits_in_memory(n_bytes: int) -> bool:
    """Whether that much may be held: half of what is free now, if the system tells."""
    free = free_host_bytes()
    return free is None or n_bytes < _SHARE_OF_MEMORY * free


def _of_machine() -> int | None:
    return _pages('SC_PHYS_PAGES')


def _available() -> int | None:
    try:
        lines = _MEMINFO.read_text(encoding='ascii').splitlines()
        (kilobytes,) = (line.split()[1] for line in lines if line.startswith('MemAvailable:'))
        return int(kilobytes) * 1024
    except (OSError, ValueError):
        return _pages('SC_AVPHYS_PAGES')


def _pages(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf('SC_PAGE_SIZE')
    except (AttributeError, ValueError, OSError):
        return None


def _limits() -> list[tuple[int, int]]:
    """Limit and use, without caches of files, of the groups that this process is in."""
    found = []
    for folder, (limit, used, cached) in product(_groups(), _FILES):
        try:
            rows = (folder / 'memory.stat').read_text(encoding='ascii').splitlines()
            free = int(dict(row.split() for row in rows).get(cached, 0))
            most = int((folder / limit).read_text(encoding='ascii'))  # 'max' is no number
            now = int((folder / used).read_text(encoding='ascii'))
        except (OSError, ValueError):
            continue
        found.append((most, max(0, now - free)))
    return found


def _groups() -> list[Path]:
    """Folders of the group of this process and of those around it."""
    try:
        rows = Path('/proc/self/cgroup').read_text(encoding='ascii').splitlines()
    except OSError:
        return []
    folders = []
    for _, controllers, path in (row.split(':', 2) for row in rows):
        if controllers in ('', 'memory'):  # version 2, version 1
            root = _CGROUPS / controllers
            own = root / path.lstrip('/')
            folders += [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return folders
