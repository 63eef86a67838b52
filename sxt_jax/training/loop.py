"""The training loop: steps, validation, checkpoints, and when to stop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from sxt_jax.core.devices import own_copy, replicated, split_batch
from sxt_jax.core.errors import InputError
from sxt_jax.core.processes import ALONE, Team
from sxt_jax.core.progress import progress_bar
from sxt_jax.data.pipeline import PartedStream, prefetch
from sxt_jax.training.checkpoint import (
    best_step,
    list_checkpoints,
    remove_old_checkpoints,
    save_checkpoint,
)
from sxt_jax.training.logbook import Logbook, NoLogbook
from sxt_jax.training.objectives import Objective, steps_per_round, turn_of_step
from sxt_jax.training.state import TrainState
from sxt_jax.training.step import TrainStep, make_train_step

SCORE = 'dice'  # the validation metric that decides which checkpoint is best
_INTERRUPTIONS = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(InputError):
    """Training cannot go on; the message names the last good checkpoint."""


class TrainingInterrupted(TrainingStopped):
    """The process was asked to end; the message names what was saved."""

    exit_status = 130  # of shells for SIGINT


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long a run is, and what happens when.

    Attributes:
      n_epochs: length of the run; an epoch gives every objective its turn.
      evaluate_every: epochs between validations; a checkpoint is saved at each.
      checkpoint_every_steps: steps between further checkpoints; 0 for none.
      keep: how many of the newest checkpoints are kept, besides the best.
      patience: validations without a better one after which training stops; 0: never.
      plateau: the metric by which a validation is better: higher, or lower if it is a loss.
    """

    n_epochs: int
    evaluate_every: int = 1
    checkpoint_every_steps: int = 0
    keep: int = 2
    patience: int = 0
    plateau: str = SCORE


@dataclasses.dataclass(frozen=True)
class Run:
    """All that a training run consists of.

    Attributes:
      workdir: where checkpoints and metrics go.
      model: the network.
      objectives: what is learnt.
      plan: how long.
      validate: variables → metrics, or None.
      panels: variables → pictures [y, x] uint8 by name, drawn at each validation; or None.
      key: randomness of all steps.
      device_mesh: the devices.
      description: what a checkpoint tells about the network, JSON-able.
      n_accumulate: parts of a batch, see `make_train_step`.
      team: the processes that train together, each with devices of the mesh. Each has its own part
        of every batch; the first one writes. `validate` is called in all, `panels` in the first,
        with variables on devices of their own.
    """

    workdir: Path
    model: nn.Module
    objectives: Sequence[Objective]
    plan: Plan
    validate: Callable[[Any], Mapping[str, float]] | None
    key: jax.Array
    device_mesh: Mesh
    description: Mapping[str, Any]
    n_accumulate: int = 1
    panels: Callable[[Any], Mapping[str, np.ndarray]] | None = None
    team: Team = ALONE


@dataclasses.dataclass
class Progress:
    """What a run has measured so far; saved with each checkpoint.

    Attributes:
      history: one row of metrics a validation.
      sums: sum and number of the values of each step metric since the last row. Objectives that
        take turns have metrics of their own, so the numbers differ.
    """

    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sums: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> Progress:
        """The progress at a checkpoint."""
        sums = {name: (total, n) for name, (total, n) in description['pending'].items()}
        return cls(list(description['history']), sums)

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            total, n = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, n + 1

    def finish_row(self, step: int, epoch: int, scores: Mapping[str, float]) -> dict[str, Any]:
        """The row of a validation: means since the last one, and its scores."""
        means = {name: total / n for name, (total, n) in self.sums.items()}
        if clash := means.keys() & scores.keys():
            raise ValueError(
                f'{sorted(clash)} are metrics of the steps and scores of the validation'
            )
        row = {'step': step, 'epoch': epoch, **means, **scores}
        self.history.append(row)
        self.sums = {}
        return row

    def validations_since_best(self, metric: str = SCORE) -> int:
        """Of a loss the best is the lowest, of other metrics the highest."""
        find = _lowest_step if metric.endswith('loss') else best_step
        best = find(self.history, metric=metric)
        if best is None:
            return 0
        return sum(row['step'] > best for row in self.history)


def _lowest_step(history: Sequence[Mapping[str, Any]], *, metric: str) -> int | None:
    """The first step of the lowest value of a metric; None if it was never measured."""
    found = [
        (row[metric], row['step']) for row in history if math.isfinite(row.get(metric, np.nan))
    ]
    return min(found)[1] if found else None


def train(run: Run, state: TrainState, progress: Progress) -> TrainState:
    """Train from `state` to the end of the plan.

    The run after a checkpoint depends on nothing but the checkpoint, the data and the run's
    fields, so a resumed run ends with the parameters of an uninterrupted one.

    Args:
      run: what is trained.
      state: fresh or restored; its buffers are donated.
      progress: what was measured up to `state`.

    Returns:
      The last state.

    Raises:
      TrainingStopped: the loss is NaN or infinite; the last good checkpoint is named.
      TrainingInterrupted: the process was asked to end; a checkpoint was saved.
    """
    plan, epoch_steps = run.plan, steps_per_round(run.objectives)
    first, last = int(state.step), plan.n_epochs * epoch_steps
    steps = _compile_lazily(run)
    with contextlib.ExitStack() as stack:
        logbook = stack.enter_context(_open_logbook(run, first))
        interruption = _Agreed(run, stack.enter_context(_interruption()))
        bar = stack.enter_context(
            progress_bar(total=last, initial=first, unit='step', desc='training')
        )
        watch = _Watch(run, progress, bar)
        batches = prefetch(lambda s: _device_batch(run, s), range(first, last))
        stack.callback(batches.close)
        if not steps_left(run, state, progress):
            logging.info('Nothing left to do after %d of %d steps', first, last)
            return state
        for step, (which, batch) in batches:
            state, metrics = steps[which](state, batch, run.key)
            watch.see(step, run.objectives[which].name, metrics)
            done = step + 1
            if done % epoch_steps == 0 and _is_validated(done // epoch_steps, plan):
                watch.settle()
                row = progress.finish_row(done, done // epoch_steps, _validate(run, state))
                logbook.write(row)
                if run.team.is_first:
                    if run.panels:
                        logbook.draw(done, run.panels(own_copy(state.variables)))
                    bar.write(_row_text(row))
                _save(run, state, progress)
                if _stops_early(plan, progress):
                    logging.info('No better %s in %d validations', plan.plateau, plan.patience)
                    break
            elif plan.checkpoint_every_steps and done % plan.checkpoint_every_steps == 0:
                watch.settle()
                _save(run, state, progress)
            if interruption.is_asked():
                watch.settle()
                _save(run, state, progress)
                raise TrainingInterrupted(
                    run.workdir,
                    f'interrupted after step {done}; saved {done}',
                    'the same command to go on',
                )
    return state


def steps_left(run: Run, state: TrainState, progress: Progress) -> int:
    """How many steps the plan has after a state; 0 where it stops early."""
    last = run.plan.n_epochs * steps_per_round(run.objectives)
    return 0 if _stops_early(run.plan, progress) else max(0, last - int(state.step))


class _Watch:
    """Looks at each step's metrics while the next one runs, and stops at a loss that is NaN."""

    def __init__(self, run: Run, progress: Progress, bar: tqdm) -> None:
        self._run, self._progress, self._bar = run, progress, bar
        self._pending: tuple[int, str, dict[str, jax.Array]] | None = None

    def see(self, step: int, objective: str, metrics: dict[str, jax.Array]) -> None:
        self.settle()
        self._pending = step, objective, metrics

    def settle(self) -> None:
        """Wait for the last step seen."""
        if self._pending is None:
            return
        (step, objective, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not (math.isfinite(values['loss']) and math.isfinite(values['gradient_norm'])):
            raise _not_finite(self._run, step, values)
        prefix = f'{objective}/' if len(self._run.objectives) > 1 else ''
        self._progress.add({prefix + name: value for name, value in values.items()})
        self._bar.set_postfix(loss=f'{values["loss"]:.4f}', refresh=False)
        self._bar.update()


def _not_finite(run: Run, step: int, values: Mapping[str, float]) -> TrainingStopped:
    saved = list_checkpoints(run.workdir)
    kept = f'the last good checkpoint is {saved[-1]}' if saved else 'no checkpoint was saved yet'
    found = f'loss {values["loss"]:g}, gradient norm {values["gradient_norm"]:g} in step {step}'
    return TrainingStopped(run.workdir, f'{found}; {kept}', 'a lower learning rate or other data')


def _compile_lazily(run: Run) -> list[TrainStep]:
    """One jitted step an objective; each is compiled when its first batch comes."""
    return [
        make_train_step(run.model, o, device_mesh=run.device_mesh, n_accumulate=run.n_accumulate)
        for o in run.objectives
    ]


def _device_batch(run: Run, step: int) -> tuple[int, dict[str, jax.Array]]:
    """Whose turn it is, and its batch on the devices."""
    turn = turn_of_step(run.objectives, step)
    stream, sharding = run.objectives[turn.objective].stream, split_batch(run.device_mesh)
    if run.team.size == 1:
        return turn.objective, jax.device_put(stream.batch(turn.step), sharding)
    if not isinstance(stream, PartedStream):
        raise TypeError(f'{stream} gives no parts of batches, as several processes need')
    return turn.objective, _own_parts(stream, turn.step, sharding)


def _own_parts(stream: PartedStream, step: int, sharding: NamedSharding) -> dict[str, jax.Array]:
    """A batch over the devices of all processes, of which this one makes what is on its own."""
    parts: dict[str, list[jax.Array]] = {}
    places: Any = sharding.addressable_devices_indices_map((stream.batch_size,))
    for device, (rows,) in places.items():
        for name, array in stream.batch(step, rows).items():
            parts.setdefault(name, []).append(jax.device_put(array, device))
    return {
        name: jax.make_array_from_single_device_arrays(
            (stream.batch_size, *arrays[0].shape[1:]), sharding, arrays
        )
        for name, arrays in parts.items()
    }


def _is_validated(epoch: int, plan: Plan) -> bool:
    return epoch % plan.evaluate_every == 0 or epoch == plan.n_epochs


def _validate(run: Run, state: TrainState) -> Mapping[str, float]:
    """The scores of the first process: others may round differently, and all must go one way."""
    if not run.validate:
        return {}
    scores = dict(run.validate(own_copy(state.variables)))
    return dict(run.team.gather(scores, name=f'scores of step {int(state.step)}')[0])


def _stops_early(plan: Plan, progress: Progress) -> bool:
    return 0 < plan.patience <= progress.validations_since_best(plan.plateau)


def _save(run: Run, state: TrainState, progress: Progress) -> None:
    description = {**run.description, 'history': progress.history, 'pending': progress.sums}
    best, step = best_step(progress.history, metric=SCORE), int(state.step)

    def save() -> None:
        save_checkpoint(run.workdir, step, state, description)
        remove_old_checkpoints(run.workdir, keep=run.plan.keep, always=best)

    # All wait: devices that wait for those of a process that writes would give up some day.
    run.team.first(save, name=f'save step {step}')


def _open_logbook(run: Run, first_step: int) -> NoLogbook:
    return Logbook(run.workdir, first_step=first_step) if run.team.is_first else NoLogbook()


def _row_text(row: Mapping[str, Any]) -> str:
    numbers = ', '.join(f'{k} {v:.4f}' for k, v in row.items() if k not in ('step', 'epoch'))
    return f'epoch {row["epoch"]} (step {row["step"]}): {numbers}'


class _Agreed:
    """Whether a process was asked to end: several learn it in the same step, one after the asking.

    What each was asked goes over the devices behind a step, whose result nobody waits for before
    the next step is on its way.
    """

    def __init__(self, run: Run, asked: threading.Event) -> None:
        self._asked, self._team = asked, run.team
        self._sharding = split_batch(run.device_mesh)
        self._any = jax.jit(jnp.any, out_shardings=replicated(run.device_mesh))
        self._told: jax.Array | None = None

    def is_asked(self) -> bool:
        """Called once after each step."""
        if self._team.size == 1:
            return self._asked.is_set()
        told, own = self._told, np.full(1, self._asked.is_set())
        self._told = self._any(
            jax.make_array_from_callback(
                (self._sharding.num_devices,), self._sharding, lambda _: own
            )
        )
        return told is not None and bool(told)


@contextlib.contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to end (scheduler, Ctrl-C; twice: at once)."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, ask) for number in _INTERRUPTIONS}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
