"""Bad input: one line, status 2, nothing half-written."""

import shutil
import time

import numpy as np
import pytest

from sxt_jax.core.volume import Volume
from sxt_jax.io import list_volumes, read_volume, write_volume
from sxt_jax.training.checkpoint import list_checkpoints
from tests.launch.processes import call, run, start, tiny, write_balls

pytestmark = pytest.mark.process
WHOLE = tiny('--config.data.working_shape=None')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    write_balls(folder / 'data')
    run('train', *WHOLE, f'--config.data.train={folder / "data"}', f'--workdir={folder / "run"}')
    return folder


def _last_line(text):
    return text.strip().splitlines()[-1]


def _broken_copy(trained, tmp_path, name):
    shutil.copytree(trained / 'data', tmp_path / 'data')
    return tmp_path / 'data' / name


def _train(folder, *flags, way=call):
    workdir = folder.parent / 'run'
    log = way(
        'train', *tiny(*flags), f'--config.data.train={folder}', f'--workdir={workdir}', status=2
    )
    assert 'Traceback' not in log
    assert not workdir.exists()
    return _last_line(log)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _put(path, change):
    volume = read_volume(path)
    data = volume.data.copy()
    path.unlink()
    write_volume(path, volume.with_data(change(data)))


def _set(value):
    def change(data):
        data[1, 2, 3] = value
        return data

    return change


CASES = {
    'truncated image': ('images/ball_1.tif', _truncate, 'ball_1.tif'),
    'not a volume': ('images/ball_1.tif', lambda p: p.write_text('hello'), 'ball_1.tif'),
    'shapes differ': ('labels/ball_1.tif', lambda p: _put(p, lambda d: d[:-1]), 'shape'),
    'missing labels': ('labels/ball_1.tif', lambda p: p.unlink(), 'ball_1'),
    'empty labels': ('labels/ball_1.tif', lambda p: _put(p, lambda d: 0 * d), 'ball_1.tif'),
    'NaN': ('images/ball_1.tif', lambda p: _put(p, _set(np.nan)), 'NaN'),
    'infinity': ('images/ball_1.tif', lambda p: _put(p, _set(np.inf)), 'infinite'),
    'constant image': ('images/ball_1.tif', lambda p: _put(p, lambda d: 0 * d), 'constant'),
}


@pytest.mark.parametrize('what', CASES)
def test_bad_training_data(trained, tmp_path, what):
    name, damage, message = CASES[what]
    damage(_broken_copy(trained, tmp_path, name))
    line = _train(tmp_path / 'data', way=run if what == 'truncated image' else call)
    assert line.startswith('error: ')
    assert message in line


def test_labels_outside_the_class_list(trained, tmp_path):
    folder = _broken_copy(trained, tmp_path, '')
    line = _train(folder, '--config.data.classes=ball=7')
    assert 'ball_' in line
    assert '7' in line


def test_unknown_config_field_and_flag(trained):
    for way, flag, told in (
        (run, '--config.data.trian=x', '--config.data.trian: no such field; expected one of'),
        (
            call,
            '--config.model.size=3',
            '--config.model.size: no such field; expected one of dropout, filters',
        ),
        (call, '--config.epochs=many', '--config.epochs=many: invalid literal for int()'),
        (call, '--config=configs/nothing.py', 'configs/nothing.py'),
        (call, '--config=configs/acseg.py:x', "variant 'x'; expected one of"),
    ):
        log = way('train', *tiny(), flag, '--workdir=y', status=2)
        assert told in _last_line(log)
        assert 'Traceback' not in log
    assert 'nonsense' in _last_line(call('segment', '--nonsense=1', status=2))


def test_a_network_that_cannot_be_built(trained, tmp_path):
    folder = _broken_copy(trained, tmp_path, '')
    assert 'patch' in _train(folder, '--config.data.patch=(7, 8, 8)')
    assert 'unet4d' in _train(folder, '--config.model.name=unet4d')
    assert 'batch_size' in _train(folder, '--config.batch_size=0')


def test_a_run_is_not_continued_as_another(trained, tmp_path):
    shutil.copytree(trained / 'run', tmp_path / 'run')
    before = (tmp_path / 'run' / 'config.json').read_text()
    flags = (f'--config.data.train={trained / "data"}', f'--workdir={tmp_path / "run"}')
    log = call('train', *WHOLE, *flags, '--config.optimizer.learning_rate=0.5', status=2)
    assert 'config.optimizer.learning_rate is now 0.5; expected 0.01' in _last_line(log)
    assert (tmp_path / 'run' / 'config.json').read_text() == before
    run('train', *WHOLE, '--config.epochs=3', *flags)
    assert (tmp_path / 'run' / 'checkpoints' / '12').exists()


def test_anisotropic_voxels_where_isotropy_is_assumed(trained, tmp_path):
    folder = _broken_copy(trained, tmp_path, '')
    line = _train(folder, '--config.augmentation.swap_axes=True')
    assert 'voxels of 30×20×20 nm (z, y, x) with --config.augmentation.swap_axes' in line


def test_volumes_smaller_than_a_patch_are_padded(trained, tmp_path):
    folder = _broken_copy(trained, tmp_path, '')
    flags = (
        '--config.data.working_shape=None',
        '--config.data.patch=(32, 32, 32)',
        '--config.data.stride=(32, 32, 32)',
        '--config.inference.tile=(32, 32, 32)',
        '--config.epochs=1',
    )
    workdir = f'--workdir={tmp_path / "run"}'
    run('train', *tiny(*flags), f'--config.data.train={folder}', workdir)


def test_one_failure_does_not_stop_the_others(trained, tmp_path):
    images = _broken_copy(trained, tmp_path, 'images')
    _truncate(images / 'ball_0.tif')
    _put(images / 'ball_1.tif', _set(np.nan))
    log = run(
        'segment',
        f'--checkpoint={trained / "run"}',
        f'--input={images}',
        f'--output={tmp_path / "out"}',
        status=2,
    )
    assert [p.name for p in list_volumes(tmp_path / 'out')] == ['ball_2.tif']
    assert 'ball_0.tif' in log
    assert 'ball_1.tif' in log
    assert 'Traceback' not in log
    labels = read_volume(tmp_path / 'out' / 'ball_2.tif')
    source = read_volume(images / 'ball_2.tif')
    assert labels.shape == source.shape
    np.testing.assert_allclose(labels.voxel_size_nm, source.voxel_size_nm, rtol=1e-6)


def test_wrong_checkpoints_and_inputs(trained, tmp_path):
    image = trained / 'data' / 'images' / 'ball_0.tif'
    flags = (f'--input={image}', f'--output={tmp_path / "out"}')
    assert 'no checkpoint' in _last_line(
        call('segment', f'--checkpoint={tmp_path}', *flags, status=2)
    )
    checkpoint = f'--checkpoint={trained / "run"}'
    log = call('segment', checkpoint, '--input=/nowhere', f'--output={tmp_path}', status=2)
    assert '/nowhere' in _last_line(log)
    log = call('segment', checkpoint, f'--input={image}', f'--output={image.parent}', status=2)
    assert 'another folder' in _last_line(log)
    two = np.random.default_rng(0).random((8, 8, 8, 2)).astype(np.float32)
    write_volume(tmp_path / 'two.npy', Volume(two, axes='zyxc'))
    log = call('segment', checkpoint, f'--input={tmp_path / "two.npy"}', flags[1], status=2)
    assert '2 channels' in _last_line(log)
    assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


def test_a_broken_checkpoint_is_passed_over_by_inference(trained, tmp_path):
    shutil.copytree(trained / 'run', tmp_path / 'run')
    newest = sorted((tmp_path / 'run' / 'checkpoints').iterdir(), key=lambda p: int(p.name))[-1]
    payload = max((newest / 'state' / 'd').iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 4
    payload.write_bytes(data)
    image = trained / 'data' / 'images' / 'ball_0.tif'
    flags = (f'--input={image}', f'--output={tmp_path / "out"}')
    log = run('segment', f'--checkpoint={tmp_path / "run"}', *flags)
    assert 'changed since it was written' in log
    assert 'falling back to step' in log or 'the newest intact one' in log


def test_unwritable_output(trained, tmp_path):
    (tmp_path / 'file').write_text('')
    image = trained / 'data' / 'images' / 'ball_0.tif'
    flags = (f'--input={image}', f'--output={tmp_path / "file" / "out"}')
    log = call('segment', f'--checkpoint={trained / "run"}', *flags, status=2)
    assert 'cannot be written' in _last_line(log)
    data = f'--config.data.train={trained / "data"}'
    log = call('train', *tiny(), data, f'--workdir={tmp_path / "file" / "run"}', status=2)
    assert 'cannot be written' in _last_line(log)


def test_what_cannot_be_written_and_how_scripts_end(trained, tmp_path):
    flags = (f'--truth={trained / "data" / "labels"}', f'--prediction={tmp_path}')
    log = call('evaluate', *flags, '--output=/proc/nothing', status=2)
    assert 'cannot be written' in _last_line(log)
    assert '--checkpoint' in call('segment', '--help')
    log = call(
        'segment', '--checkpoint=/nowhere', '--input=/nowhere', '--output=x', '--debug', status=2
    )
    assert 'Traceback' in log
    assert _last_line(log).startswith('error: /nowhere')


def test_a_terminated_segmentation_leaves_nothing(trained, tmp_path):
    """What a scheduler does when the time is up."""
    write_balls(tmp_path / 'big', n=1, side=160, suffix='.zarr')
    output = tmp_path / 'out'
    image = tmp_path / 'big' / 'images' / 'ball_0.zarr'
    flags = f'--checkpoint={trained / "run"}', f'--input={image}', f'--output={output}'
    process = start('segment', *flags)
    while process.poll() is None and not list(output.glob('.incomplete-*')):
        time.sleep(0.01)
    process.terminate()
    _, log = process.communicate(timeout=300)
    assert process.returncode == 130
    assert _last_line(log) == 'interrupted'
    assert list(output.iterdir()) == []


def test_a_terminated_training_run_saves_and_says_so(trained, tmp_path):
    workdir = tmp_path / 'run'
    flags = (f'--config.data.train={trained / "data"}', f'--workdir={workdir}')
    process = start('train', *WHOLE, '--config.epochs=1000', *flags)
    while process.poll() is None and not list_checkpoints(workdir):
        time.sleep(0.05)
    process.terminate()
    _, log = process.communicate(timeout=300)
    assert process.returncode == 130
    step = list_checkpoints(workdir)[-1].name
    assert f'interrupted after step {step}; saved {step}; expected the same command' in log


def test_a_full_disk_leaves_nothing(trained, tmp_path):
    """Files cannot grow beyond a limit: to the write of a checkpoint, a full disk."""
    log = run(
        'train',
        *WHOLE,
        f'--config.data.train={trained / "data"}',
        f'--workdir={tmp_path / "run"}',
        status=2,
        file_limit_kib=20,
    )
    assert 'disk is full' in _last_line(log)
    assert list((tmp_path / 'run' / 'checkpoints').iterdir()) == []
