"""What every launch script does: parse flags, set up JAX, tell errors in one line."""

from __future__ import annotations

import logging as python_logging
import os
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from absl import app, flags, logging
from ml_collections import ConfigDict

from sxt_jax.core.atomic import remove_unfinished
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import OutOfStep

_DEBUG = flags.DEFINE_boolean('debug', False, 'Show the traceback of errors.')
_REQUIRE_ACCELERATOR = flags.DEFINE_boolean(
    'require_accelerator', False, 'Fail rather than compute on the CPU.'
)
_COORDINATOR, _NUMBER, _PROCESS = 'coordinator_address', 'num_processes', 'process_id'
EXIT_BAD_INPUT = InputError.exit_status
EXIT_INTERRUPTED = 130


def run_main(
    main: Callable[[Sequence[str]], int | None],
    *,
    default_config: str | None = None,
    several_processes: bool = False,
) -> None:
    """Run `main(argv)` with parsed flags; its return value is the exit status (None: 0).

    Scripts with a config that need not be given name the file here: as the default of the flag it
    would be read before errors can be told.

    `InputError` and misspelt flags become one line on stderr and status 2, an interruption (also
    of a training run, which saves first) one line and status 130; with `--debug` the traceback is
    shown as well.

    With `several_processes` there are flags by which the script is one process of several, which
    end together: one that fails tells the others.
    """

    def guarded(argv: Sequence[str]) -> None:
        signal.signal(signal.SIGTERM, _terminate)
        sys.unraisablehook = _interrupt_again
        job = None
        try:
            if len(argv) > 1:
                raise InputError('command line', f'stray argument {argv[1]!r}', '--flag=value')
            job = _join_job() if several_processes else None
            _set_up()
            status = main(argv)
            if job is not None:
                job.finish()
            sys.exit(status)
        except (InputError, KeyboardInterrupt, OSError, OutOfStep) as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends by itself now
            if _DEBUG.value:
                traceback.print_exc()
            if isinstance(error, OSError):
                error = InputError(error.filename or 'system', str(error.strerror or error))
            message = f'error: {error}' if str(error) else 'interrupted'
            status = getattr(error, 'exit_status', EXIT_INTERRUPTED)
            if job is not None:
                job.fail(message, status)
            remove_unfinished()
            print(message, file=sys.stderr)
            sys.exit(status)
        except Exception as error:
            if job is None:
                raise
            traceback.print_exc()
            job.fail(f'error: {error!r}', 1)

    if several_processes:
        _define_process_flags()
    if default_config and not any(re.match(r'--?config(=|$)', arg) for arg in sys.argv):
        sys.argv.insert(1, f'--config={default_config}')
    app.run(guarded, flags_parser=_parse_flags)


def _define_process_flags() -> None:
    if _PROCESS in flags.FLAGS:  # a second script in one process, as in tests
        return
    flags.DEFINE_boolean('multiprocess', False, 'One of several processes, told by SLURM, MPI, ….')
    flags.DEFINE_string(_COORDINATOR, None, 'Likewise, told here: HOST:PORT of process 0.')
    flags.DEFINE_integer(_NUMBER, None, 'How many processes there are.', lower_bound=1)
    flags.DEFINE_integer(_PROCESS, None, 'Which one this is, from 0.', lower_bound=0)
    flags.DEFINE_integer(
        'heartbeat_timeout_s', 100, 'A process that is silent for so long is dead.', lower_bound=1
    )


def _join_job() -> Any:
    """This process's tie to the others of its job (`core.job.Job`); None: it is by itself.

    Raises:
      InputError: what the flags tell of the processes is not all.
    """
    names = _COORDINATOR, _NUMBER, _PROCESS
    told: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    given = [f'--{name}' for name, value in told.items() if value is not None]
    if not given and not flags.FLAGS['multiprocess'].value:
        return None
    if given and len(given) < len(told) and not flags.FLAGS['multiprocess'].value:
        expected = f'all of {", ".join(f"--{name}" for name in told)}; or --multiprocess'
        raise InputError('command line', f'{" and ".join(given)} alone', expected)
    from sxt_jax.core.job import join_job

    timeout: Any = flags.FLAGS['heartbeat_timeout_s'].value
    return join_job(heartbeat_timeout_s=timeout, **told)


def is_first_process() -> bool:
    """Whether this is the process that prints: the first of several, or the only one."""
    from sxt_jax.core.processes import everyone

    return everyone().is_first


def _terminate(number: int, frame: Any) -> None:
    """What a scheduler asks for ends like Ctrl-C: what is half-written is removed."""
    raise KeyboardInterrupt


def _interrupt_again(unraisable: Any) -> None:
    """An interruption that came while a callback ran (JAX has some) is ignored there: once more."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    later = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    later.daemon = True
    later.start()


def _parse_flags(argv: list[str]) -> list[str]:
    """Flags parsed; a misspelt flag or config field ends with status 2 and a line about it."""
    try:
        rest = list(flags.FLAGS(argv))
        if 'config' in flags.FLAGS:
            getattr(flags.FLAGS['config'].value, 'seed', None)  # tells of a file that is not there
        return rest
    except SystemExit:  # --help, which absl ends with status 1
        sys.exit(0)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if '--debug' in argv:
            raise
        message = ' '.join(str(error).split())
        # Of what went wrong with a config file, ml_collections tells more than anyone wants.
        message = re.sub(
            r'Traceback .*Error: |Configuration is not available.*config file ', '', message
        )
        print(f'error: {_unknown_field(argv) or message}; --help lists the flags', file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


def _unknown_field(argv: list[str]) -> str:
    """What is wrong with the first `--config.…` flag that names no field; '' if all do."""
    mark = '--config.'
    plain = [arg for arg in argv if not arg.startswith(mark)]
    try:
        with mock.patch.object(sys, 'argv', plain):  # where ml_collections looks for overrides
            flags.FLAGS(plain)
    except Exception:  # then something else is wrong with the command line
        return ''
    for arg in argv:
        if not arg.startswith(mark):
            continue
        fields: Any = flags.FLAGS['config'].value if 'config' in flags.FLAGS else None
        path = arg.removeprefix(mark).partition('=')[0].split('.')
        for i, name in enumerate(path):
            if not isinstance(fields, ConfigDict):
                return ''
            if name not in fields:
                known = ', '.join(sorted(fields))
                where = mark + '.'.join(path[: i + 1])
                return f'{where}: no such field; expected one of {known}'
            fields = fields[name]
    return ''


def _set_up() -> None:
    """Logging, a cache of compiled programs per user, as many open files as the system lets us."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    import jax

    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        cache = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'sxt_jax' / 'xla'
        jax.config.update('jax_compilation_cache_dir', str(cache))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a data set is a few files a volume
    from sxt_jax.core.processes import everyone

    team = everyone()
    logging.set_verbosity(logging.INFO if team.is_first else logging.ERROR)
    handler = logging.get_absl_handler()
    handler.python_handler.stream = _AboveBars()
    whose = '' if team.is_first else f'process {team.index}: '
    handler.setFormatter(python_logging.Formatter(f'%(asctime)s {whose}%(message)s', '%H:%M:%S'))
    handler.addFilter(_is_told)
    if _REQUIRE_ACCELERATOR.value:
        from sxt_jax.core.devices import require_accelerator

        require_accelerator()


def _is_told(record: python_logging.LogRecord) -> bool:
    """Not the news of libraries: Orbax tells a dozen lines a checkpoint. Their warnings are."""
    ours = 'sxt_jax' in record.pathname or 'site-packages' not in record.pathname
    return ours or record.levelno > python_logging.INFO


class _AboveBars:
    """stderr for log lines: progress bars make way for them."""

    def write(self, text: str) -> int:
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def close(self) -> None:
        """At exit; stderr stays open."""


def log_devices() -> None:
    """One log line: which devices are used, with a warning if it is only the CPU."""
    from sxt_jax.core.devices import describe_devices, is_accelerated

    line = f'Computing on {describe_devices()}'
    if not is_accelerated():
        line += ' — no accelerator in use (--require_accelerator fails instead)'
    logging.info('%s', line)
