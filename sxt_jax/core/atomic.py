"""Writing so that a half-written result is never mistaken for a result."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from sxt_jax.core.errors import InputError

TEMPORARY_MARK = '.incomplete-'
# What this process is writing or has removed, into which others may be writing still.
_unfinished: set[Path] = set()
_renaming = threading.RLock()
_RENAMING_S = 10.0


def _temporary(path: Path) -> Path:
    """Beside `path`, with the same suffix, and telling who writes it."""
    writer = f'{_machine()}.{os.getpid()}.{uuid.uuid4().hex[:8]}'
    return path.with_name(f'{TEMPORARY_MARK}{writer}-{path.name}')


def _machine() -> str:
    return re.sub(r'\W', '_', socket.gethostname())


def remove_abandoned(folder: str | Path) -> None:
    """Delete unfinished results whose writer, on this machine, is no longer there.

    What others are writing, and what other machines left, stays.
    """
    pattern = re.compile(re.escape(f'{TEMPORARY_MARK}{_machine()}.') + r'(\d+)\.')
    for path in Path(folder).glob(f'{TEMPORARY_MARK}*'):
        found = pattern.match(path.name)
        if found and not _is_running(int(found[1])):
            _remove(path)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _sync(path: Path) -> None:
    """Flush a file, or a folder and all in it, to the disk."""
    paths = [path, *path.rglob('*')] if path.is_dir() else [path]
    for p in [*paths, path.parent]:
        descriptor = os.open(p, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    for _ in range(3):  # others may be writing into it still
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # nothing was made where nothing can be made
                path.unlink()
        if not path.exists():
            break


def remove_unfinished() -> None:
    """Delete what this process has begun and left: for the end of a process.

    An interruption can come between making a file and the block that removes it again.
    """
    for path in tuple(_unfinished):
        _remove(path)


def stop_renaming() -> None:
    """For a thread that ends the process at once (`os._exit`): no result appears any more.

    Other threads that have finished one wait for ever.
    """
    _renaming.acquire(timeout=_RENAMING_S)


def _replace(temporary: Path, path: Path) -> None:
    if path.is_dir():  # os.replace cannot put a folder over a filled one
        old = _temporary(path)
        os.replace(path, old)
        os.replace(temporary, path)
        _remove(old)
    else:
        os.replace(temporary, path)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there becomes `path` on success.

    The caller creates a file or a folder at the temporary path. It ends in the same suffix, so
    that writers which choose by suffix work. On any exception it is removed and `path` is as it
    was. Data are flushed to the disk before the rename.

    Raises:
      InputError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    temporary = _temporary(path)
    _unfinished.add(temporary)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        with _renaming:
            _replace(temporary, path)
            _unfinished.discard(temporary)
    except OSError as error:
        _remove(temporary)
        raise _explain(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def _explain(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return InputError(path, 'the disk is full', 'free space for the result')
    # Libraries put paragraphs into `strerror`.
    reason = os.strerror(error.errno) if error.errno else str(error)
    return InputError(path, f'cannot be written ({reason})', 'a writable folder')


def check_writable(folder: str | Path) -> None:
    """Try whether results can be written to a folder: before hours of work, not after.

    Raises:
      InputError: it cannot be made or written to, or the disk is full.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = _temporary(folder / 'probe')
    _unfinished.add(probe)
    for attempts_left in reversed(range(10)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
            _unfinished.discard(probe)
            break
        except FileNotFoundError as error:  # or another process's trial has just ended
            if not attempts_left:
                raise _explain(folder, error) from error
        except OSError as error:
            raise _explain(folder, error) from error
    for path in missing:  # nothing is left of the trial
        with contextlib.suppress(OSError):  # in use by now
            path.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')
