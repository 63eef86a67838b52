import dataclasses
import json
import os
import signal
import threading

import jax
import numpy as np
import optax
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.training.checkpoint import (
    best_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    restore_into,
)
from sxt_jax.training.logbook import Logbook, locked, read_metrics
from sxt_jax.training.loop import Plan, Progress, Run, TrainingStopped, train
from sxt_jax.training.objectives import Objective, make_segmentation_loss
from sxt_jax.training.state import create_state
from tests.training.nets import TinyNet, ball_stream


def _run(workdir, *, validate=None, loss=None, **plan):
    objective = Objective(
        name='supervised',
        stream=ball_stream(),
        loss=loss or make_segmentation_loss({'cross_entropy': 1.0}),
        optimizer=optax.adam(1e-2),
    )
    run = Run(
        workdir=workdir,
        model=TinyNet(),
        objectives=(objective,),
        plan=Plan(**{'n_epochs': 3, **plan}),
        validate=validate,
        key=jax.random.key(1),
        device_mesh=make_device_mesh(),
        description={'description': 'test'},
    )
    state = create_state(
        run.key,
        run.model,
        run.objectives,
        input_shape=(1, 8, 8, 8, 1),
        device_mesh=run.device_mesh,
    )
    return run, state


def _resume(run, template):
    checkpoint = latest_checkpoint(run.workdir)
    state = restore_into(checkpoint, template, device_mesh=run.device_mesh)
    return state, Progress.of(checkpoint.description)


def _assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_a_resumed_run_ends_bit_identical_with_the_same_metrics(tmp_path):
    run, state = _run(tmp_path / 'whole')
    whole = train(run, state, Progress())
    run, state = _run(tmp_path / 'parts', checkpoint_every_steps=4)
    with pytest.raises(TrainingStopped, match='step 10'):
        train(_broken_after(run, 10), state, Progress())
    state, progress = _resume(run, whole)
    assert int(state.step) == 8
    parts = train(run, state, progress)
    _assert_identical(whole.params, parts.params)
    _assert_identical(whole.optimizer_states, parts.optimizer_states)
    rows = read_metrics(tmp_path / 'whole')
    assert [row['step'] for row in rows] == [6, 12, 18]
    assert read_metrics(tmp_path / 'parts') == rows


def _broken_after(run, step):
    """The run with images that turn NaN at a step."""

    class Stream:
        steps_per_epoch = run.objectives[0].stream.steps_per_epoch

        def batch(self, number):
            batch = run.objectives[0].stream.batch(number)
            return {**batch, 'image': batch['image'] * (np.nan if number >= step else 1)}

    objective = dataclasses.replace(run.objectives[0], stream=Stream())
    return dataclasses.replace(run, objectives=(objective,))


def test_nan_stops_naming_step_and_last_good_checkpoint(tmp_path):
    run, state = _run(tmp_path)
    with pytest.raises(TrainingStopped, match=r'loss nan.*in step 8; .*checkpoints/6'):
        train(_broken_after(run, 8), state, Progress())
    assert [p.name for p in list_checkpoints(tmp_path)] == ['6']
    restored = latest_checkpoint(tmp_path).restore()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored))


def test_best_and_newest_checkpoints_are_kept_and_patience_ends_the_run(tmp_path):
    scores = iter([0.2, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7])
    run, state = _run(
        tmp_path, validate=lambda _: {'dice': next(scores)}, n_epochs=7, keep=1, patience=3
    )
    final = train(run, state, Progress())
    assert int(final.step) == 5 * 6
    assert [p.name for p in list_checkpoints(tmp_path)] == ['12', '30']
    assert [row['dice'] for row in read_metrics(tmp_path)] == [0.2, 0.9, 0.3, 0.4, 0.5]
    state, progress = _resume(run, final)
    assert int(train(run, state, progress).step) == 30  # stopped is stopped


def test_termination_saves_and_tells_how_to_go_on(tmp_path):
    run, state = _run(tmp_path, n_epochs=1000, evaluate_every=1000)
    timer = threading.Timer(3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(TrainingStopped, match='interrupted after step'):
        train(run, state, Progress())
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint.step > 0
    assert checkpoint.description['pending']['loss'][1] == checkpoint.step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not [t for t in threading.enumerate() if t.name.startswith('prefetch')]


def test_event_files_hold_the_metrics(tmp_path):
    with Logbook(tmp_path, first_step=0) as logbook:
        logbook.write({'step': 5, 'loss': 0.25})
        logbook.write({'step': 9, 'loss': 0.125})
    events = list((tmp_path / 'tensorboard').iterdir())
    assert len(events) == 1
    assert b'loss' in events[0].read_bytes()
    with Logbook(tmp_path, first_step=5):
        pass
    assert read_metrics(tmp_path) == [{'step': 5, 'loss': 0.25}]
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write(json.dumps({'step': 7, 'loss': 1})[:9])
    assert read_metrics(tmp_path) == [{'step': 5, 'loss': 0.25}]


def test_two_runs_cannot_share_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match='another process'), locked(tmp_path):
        pass
    with locked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == ['.lock']


def test_without_validation_no_checkpoint_is_best(tmp_path):
    """Also where the loss has a part of the score's name."""
    loss = make_segmentation_loss({'cross_entropy': 1.0, 'dice': 1.0})
    run, state = _run(tmp_path, loss=loss, patience=1)
    assert int(train(run, state, Progress()).step) == 18
    assert all('dice' not in row and 'dice_loss' in row for row in read_metrics(tmp_path))
    assert best_checkpoint(tmp_path, metric='dice').step == 18
    with pytest.raises(ValueError, match='dice'):
        Progress(sums={'dice': (1.0, 1)}).finish_row(1, 1, {'dice': 0.5})


def test_rows_are_means_since_the_last():
    progress = Progress()
    progress.add({'loss': 2.0})
    progress.add({'loss': 4.0})
    row = progress.finish_row(10, 1, {'dice': 0.5})
    assert row == {'step': 10, 'epoch': 1, 'loss': 3.0, 'dice': 0.5}
    assert progress.sums == {}


def test_means_of_objectives_that_take_turns_are_each_its_own():
    progress = Progress()
    for metrics in ({'a/loss': 2.0}, {'a/loss': 4.0}, {'b/loss': 7.0}):
        progress.add(metrics)
    saved = json.loads(json.dumps({'history': progress.history, 'pending': progress.sums}))
    row = Progress.of(saved).finish_row(3, 1, {})
    assert row == {'step': 3, 'epoch': 1, 'a/loss': 3.0, 'b/loss': 7.0}


def test_a_plateau_of_the_loss_ends_training(tmp_path):
    """Whatever the score does."""
    losses = [3.0, 2.0, 2.0, 2.5, 1.0]
    told = iter(enumerate(losses))

    def validate(variables):
        i, loss = next(told)
        return {'dice': 0.1 * (i + 1), 'validation/loss': loss}

    plan = {'n_epochs': 5, 'patience': 2, 'plateau': 'validation/loss'}
    run, state = _run(tmp_path, validate=validate, **plan)
    train(run, state, Progress())
    assert [row['validation/loss'] for row in read_metrics(tmp_path)] == losses[:4]
    assert best_checkpoint(tmp_path, metric='dice').step == 24
