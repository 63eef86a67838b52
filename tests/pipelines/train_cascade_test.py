"""A cascade from sparsely labelled tomograms to segmented ones, and who learns from what."""

import shutil

import flax.linen as nn
import numpy as np
import pytest

from configs import cascade
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume
from sxt_jax.data.binning import bin_mean
from sxt_jax.data.classes import IGNORE_INDEX
from sxt_jax.data.stage_maps import enlarge_window
from sxt_jax.inference import predict_volume
from sxt_jax.io import read_volume, write_volume
from sxt_jax.models import NETWORKS, UNet3D
from sxt_jax.pipelines import train_cascade
from sxt_jax.pipelines import train_network as train_network_module
from sxt_jax.pipelines.cascade_data import StageData, common_multiple
from sxt_jax.pipelines.export_network import export_checkpoint
from sxt_jax.pipelines.segment_volume import Options, probability_path, segment_files
from sxt_jax.pipelines.segmenter import load_segmenter
from sxt_jax.pipelines.stage_config import stage_config
from sxt_jax.pipelines.train_cascade import list_runs, train_experiment
from sxt_jax.pipelines.train_network import train_network
from sxt_jax.pipelines.trained_network import load_network, open_network, stages_of
from sxt_jax.training.checkpoint import list_checkpoints, open_checkpoint

SHAPE = (17, 16, 18)
UNLABELLED = 99
N_VOLUMES = 4


class TinyUNet(UNet3D):
    """One convolution, which compiles at once."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(4, (3, 3, 3), name='encoder_0')(x))
        return {'logits': nn.Dense(self.n_labels, name='head')(x)}


@pytest.fixture(scope='module', autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, 'unet3d', TinyUNet)
        yield


def make_cell(seed):
    """Coefficients in 1/µm of a cell with a nucleus, and labels in slices of one orientation."""
    rng = np.random.default_rng(seed)
    place = np.indices(SHAPE).T - np.array(SHAPE) * rng.uniform(0.45, 0.55, 3)
    distance = np.sqrt((place**2).sum(-1)).T
    labels = (distance < 7).astype(np.uint8) + (distance < 4)
    lac = 0.2 + 0.25 * labels + rng.normal(0, 0.02, SHAPE)
    sparse = np.full(SHAPE, UNLABELLED, np.uint8)
    index = (slice(None),) * (seed % 3) + (slice(seed % 2, None, 4),)
    sparse[index] = labels[index]
    return lac.astype(np.float32), sparse


def make_config(folder, **fields):
    config = cascade.get_config('smoke')
    config.update_from_flattened_dict({
        'data.train': str(folder), 'data.ignore_value': UNLABELLED, 'model.filters': (4,),
        'data.classes': 'background=0,cytoplasm=1,nucleus=2', 'data.patch': (8, 8, 8),
        'data.steps_per_epoch': 30, 'epochs': 1, 'optimizer.learning_rate': 0.05,
        'inference.tile': (8, 8, 8), 'inference.overlap': (4, 4, 4),
        **fields,
    })  # fmt: skip
    return config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('cells')
    for i in range(N_VOLUMES):
        lac, labels = make_cell(i)
        write_volume(made / 'images' / f'cell_{i}.mrc', Volume(lac, (35.0, 35.0, 35.0)))
        write_volume(made / 'labels' / f'cell_{i}.mrc', Volume(labels, (35.0, 35.0, 35.0)))
    return made


class Stopped(Exception):
    pass


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    """Workdir, and what each run of a network learnt from; stopped once between two folds."""
    workdir, seen = tmp_path_factory.mktemp('W'), {}

    def spy(config, where, *, load, **others):
        def watched(*args, **kwargs):
            seen[str(where.relative_to(workdir))] = data = load(*args, **kwargs)
            return data

        if where.name == 'fold_1' and 'stopped' not in seen:
            seen['stopped'] = {p: p.stat().st_mtime_ns for p in workdir.rglob('manifest.json')}
            raise Stopped
        return train_network(config, where, load=watched, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_cascade, 'train_network', spy)
        with pytest.raises(Stopped):
            train_experiment(make_config(folder), workdir)
        train_experiment(make_config(folder), workdir)
    return workdir, seen


def _names(examples):
    return sorted(example.name for example in examples)


def _maps(folder):
    return {p.stem.partition('_cell')[0]: p for p in folder.rglob('*.zarr')}


def test_what_was_done_is_not_done_again(trained, folder):
    workdir, seen = trained
    before = seen['stopped']
    assert {p.parent.parent.parent.name for p in before} == {'coarse', 'fold_0'}
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    files = {p: p.stat().st_mtime_ns for p in workdir.rglob('manifest.json')}
    files |= {p: p.stat().st_mtime_ns for p in workdir.rglob('*.zarr')}
    (workdir / 'coarse' / 'probabilities' / 'of_other_weights').mkdir()
    other_tiles = {'inference.overlap': (2, 2, 2)}
    again = train_experiment(make_config(folder, **other_tiles), workdir)
    assert all(p.stat().st_mtime_ns == t for p, t in files.items())
    assert [again.path] == list_checkpoints(workdir)
    assert not (workdir / 'coarse' / 'probabilities' / 'of_other_weights').exists()
    assert list_runs(workdir) == [workdir / 'coarse', workdir / 'fine']
    with pytest.raises(InputError, match=r'W\d*/coarse: config\.optimizer\.learning_rate is now'):
        train_experiment(make_config(folder, **{'optimizer.learning_rate': 0.1}), workdir)


def test_a_refused_command_leaves_everything_as_it_was(trained, folder):
    workdir, _ = trained
    (workdir / 'coarse' / 'probabilities' / 'of_other_weights').mkdir()
    files = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
    for fields, message in (
        ({'epochs': 2}, r'W\d*/fine: learnt from .* 30 steps left .* or \S*/fine removed'),
        ({'stages.fine.optimizer.learning_rate': 0.1}, r'/fine: config\.optimizer\.learning_rate'),
    ):
        with pytest.raises(InputError, match=message):
            train_experiment(make_config(folder, **fields), workdir)
    with pytest.raises(InputError, match='/coarse: the run of a single network'):
        train_experiment(make_config(folder), workdir / 'coarse')
    with pytest.raises(InputError, match='a cascade of coarse, fine; expected another --workdir'):
        train_network(stage_config(make_config(folder), 'coarse'), workdir)
    assert (workdir / 'coarse' / 'probabilities' / 'of_other_weights').is_dir()
    now = {p: p.stat().st_mtime_ns for p in workdir.rglob('*') if p.is_file()}
    assert {p: now[p] for p in files if p.name != '.lock'} == {
        p: t for p, t in files.items() if p.name != '.lock'
    }
    assert now.keys() == files.keys()


def test_probabilities_are_not_taken_for_those_of_other_gray_values(trained, folder, tmp_path):
    """Of a tomogram that was reconstructed anew, under the name and labels that it had."""
    workdir, seen = trained
    for name in ('W', 'cells'):
        shutil.copytree(workdir if name == 'W' else folder, tmp_path / name)
    name = seen['fine'].train[0].name
    gray = make_cell(int(name[-1]))[0] + np.float32(0.01)
    path = tmp_path / 'cells' / 'images' / f'{name}.mrc'
    write_volume(path, Volume(gray, (35.0, 35.0, 35.0)))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'W').rglob('*.zarr')}
    with pytest.raises(InputError, match=r'W/fine: volumes is now '):
        train_experiment(make_config(tmp_path / 'cells'), tmp_path / 'W')
    now = {p: p.stat().st_mtime_ns for p in (tmp_path / 'W').rglob('*.zarr')}
    assert before.items() <= now.items()
    (new,) = now.keys() - before.keys()
    assert name in new.name


def test_the_cascade_that_was_asked_for_is_the_one_that_is_used(trained, folder, tmp_path):
    """Although another in the folder has more steps."""
    workdir, _ = trained
    shutil.copytree(workdir, tmp_path / 'W')
    best = train_experiment(make_config(folder, **{'stages.order': ('coarse',)}), tmp_path / 'W')
    assert stages_of(best.description) == ('coarse',)
    assert list_checkpoints(tmp_path / 'W') == [best.path]
    assert load_segmenter(tmp_path / 'W').earlier is None


def test_stages_start_from_those_of_another_cascade(trained, folder):
    workdir, _ = trained
    config = make_config(folder, **{'initial.checkpoint': str(workdir)})
    assert stage_config(config, 'fine').initial.checkpoint == str(workdir / 'fine')
    config.stages.fine.initial.checkpoint = 'OTHER'
    assert stage_config(config, 'fine').initial.checkpoint == 'OTHER'
    joined = str(list_checkpoints(workdir)[0])
    config = make_config(folder, **{'initial.checkpoint': joined})
    for name in ('coarse', 'fine'):
        weights = open_network(joined, stage=name).restore()['params']
        assert stage_config(config, name).initial.checkpoint == joined
        own = load_network(workdir / name).variables['params']
        np.testing.assert_array_equal(weights['head']['bias'], own['head']['bias'])


@pytest.mark.parametrize('checkpoint', ['joined', 'coarse', 'NOWHERE'])
def test_weights_of_no_use_to_a_later_stage_are_told_before_the_first(
    checkpoint, trained, folder, tmp_path, monkeypatch
):
    workdir, _ = trained
    monkeypatch.setattr(train_network_module, 'train', None)
    path = str({'joined': list_checkpoints(workdir)[0]}.get(checkpoint, workdir / checkpoint))
    config = make_config(folder)
    with config.unlocked():
        config.stages.other = config.stages.fine.copy_and_resolve_references()
    config.stages.other.initial.checkpoint, config.stages.order = path, ('coarse', 'other')
    message = {
        'joined': 'a cascade of coarse, fine; expected .* a stage called other',
        'coarse': r'initial weights encoder_0/kernel: shape \(3, 3, 3, 1, 4\)',
        'NOWHERE': 'NOWHERE: no checkpoint',
    }
    with pytest.raises(InputError, match=message[checkpoint]):
        train_experiment(config, tmp_path / 'W')
    assert not (tmp_path / 'W' / 'config.json').exists()


def test_voxels_of_no_use_to_a_later_stage_are_told_before_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(train_network_module, 'train', None)
    for i in range(2):
        for part, data in zip(('images', 'labels'), make_cell(i), strict=True):
            write_volume(tmp_path / part / f'{i}.mrc', Volume(data, (60.0, 30.0, 30.0)))
    fields = {'stages.coarse.data.binning': (1, 2, 2), 'augmentation.swap_axes': True}
    config = make_config(tmp_path, **{'out_of_fold.folds': 0, **fields})
    with pytest.raises(InputError, match=r'voxels of 60×30×30 nm .* with .*swap_axes'):
        train_experiment(config, tmp_path / 'W')


def test_probabilities_to_learn_from_are_of_networks_that_did_not_see_the_volume(trained):
    workdir, seen = trained
    learnt = seen['fine']
    assert len(learnt.train) == 3
    found = []
    for fold in range(2):
        network = load_network(workdir / 'coarse' / f'fold_{fold}')
        told = ' '.join(network.facts['volumes']['train'])
        for path in _maps(workdir / 'coarse' / f'fold_{fold}').values():
            name = path.stem.split('_', 2)[2]
            assert name not in told
            assert name not in _names(seen[f'coarse/fold_{fold}'].train)
            (coarse,) = (e for e in seen['coarse'].train if e.name == name)
            tiling = {'tile': 8, 'overlap': 4, 'blend': 'cosine'}
            probs = predict_volume(network.apply_fn, network.variables, coarse.image, **tiling)
            maps = read_volume(path).data
            np.testing.assert_allclose(maps, 255 * probs['probs'], atol=0.51)
            (fine,) = (e for e in learnt.train if e.name == name)
            large = enlarge_window(maps, [(0, n) for n in SHAPE], (0.5,) * 3)
            np.testing.assert_allclose(fine.image[:, :, :][..., 1:], large, atol=1e-6)
            found.append(name)
    assert sorted(found) == _names(learnt.train)


def test_what_is_validated_on_is_the_same_and_seen_by_none(trained):
    workdir, seen = trained
    runs = [seen[name] for name in ('coarse', 'coarse/fold_0', 'coarse/fold_1', 'fine')]
    held = {tuple(_names(data.validation)) for data in runs}
    assert len(held) == 1
    ((name,),) = held
    assert all(name not in _names(data.train) for data in runs)
    own = [p for p in _maps(workdir / 'coarse' / 'probabilities').values() if name in p.stem]
    assert len(own) == 1
    large = enlarge_window(read_volume(own[0]).data, [(0, n) for n in SHAPE], (0.5,) * 3)
    image = seen['fine'].validation[0].image[:, :, :]
    np.testing.assert_allclose(image[..., 1:], large, atol=1e-6)


def test_coefficients_stay_in_per_um_and_sparse_labels_are_seen(trained, folder):
    _, seen = trained
    for fine, coarse in zip(seen['fine'].train, seen['coarse'].train, strict=True):
        lac, labels = make_cell(int(fine.name[-1]))
        np.testing.assert_array_equal(fine.image[:, :, :][..., 0], lac)
        np.testing.assert_allclose(coarse.image[..., 0], bin_mean(lac, (2, 2, 2)), atol=1e-6)
        expected = np.where(labels == UNLABELLED, IGNORE_INDEX, labels.astype(int))
        np.testing.assert_array_equal(fine.labels, expected)
        labelled = np.zeros([2 * n for n in coarse.shape], bool)
        labelled[tuple(slice(n) for n in SHAPE)] = labels != UNLABELLED
        cells = labelled.reshape(9, 2, 8, 2, 9, 2).any((1, 3, 5))
        np.testing.assert_array_equal(coarse.labels != IGNORE_INDEX, cells)
        assert coarse.voxel_size_nm == (70, 70, 70)
    assert seen['fine'].n_gray == 1
    np.testing.assert_array_equal(
        read_volume(folder / 'images' / 'cell_0.mrc').data, make_cell(0)[0]
    )


def test_one_checkpoint_segments_wherever_it_is(trained, folder, tmp_path):
    """Against each network run by itself."""
    workdir, _ = trained
    source, options = folder / 'images' / 'cell_1.mrc', Options(probabilities=True)
    moved = tmp_path / 'elsewhere' / 'cascade'
    shutil.copytree(list_checkpoints(workdir)[0], moved)
    (outcome,) = segment_files(moved, source, tmp_path / 'out', options=options)
    assert not outcome.error
    probs = read_volume(probability_path(outcome.labels)).data
    lac = read_volume(source).data
    coarse, fine = (load_network(workdir / name) for name in ('coarse', 'fine'))
    tiling = {'tile': 8, 'overlap': 4, 'blend': 'cosine'}
    first = predict_volume(coarse.apply_fn, coarse.variables, bin_mean(lac, (2, 2, 2)), **tiling)
    maps = np.rint(255 * first['probs']).astype(np.uint8)
    large = enlarge_window(maps, [(0, n) for n in SHAPE], (0.5,) * 3)
    image = np.concatenate([lac[..., None], large], -1)
    expected = predict_volume(fine.apply_fn, fine.variables, image, **tiling)['probs']
    np.testing.assert_allclose(probs, expected, atol=2e-3)  # bytes on the verge of two
    labels = read_volume(outcome.labels)
    np.testing.assert_array_equal(labels.data, probs.argmax(-1))
    assert labels.voxel_size_nm == pytest.approx((35, 35, 35))

    options = Options(mirror='z', overlap=(2, 2, 2), blend='constant', skip_existing=True)
    outcomes = segment_files(moved, source, tmp_path / 'other', options=options)
    outcomes += segment_files(moved, source, tmp_path / 'other', options=options)
    assert [(o.error, o.skipped) for o in outcomes] == [('', False), ('', True)]
    changed = load_segmenter(moved, mirror='z')
    assert (changed.earlier.binning, changed.n_channels) == ((2, 2, 2), 1)


def test_parts_of_a_cascade_are_told_apart(trained, tmp_path):
    workdir, _ = trained
    with pytest.raises(InputError, match='stage fine of a cascade; expected the workdir of the'):
        load_segmenter(workdir / 'fine')
    assert load_segmenter(workdir / 'coarse').earlier is None
    with pytest.raises(InputError, match='a cascade of coarse, fine; expected one network'):
        export_checkpoint(workdir, tmp_path / 'a.stablehlo')
    with pytest.raises(InputError, match='no flows'):
        load_segmenter(workdir, instances=True)
    with pytest.raises(InputError, match=r'config\.stages'):
        train_network(make_config(tmp_path), tmp_path / 'W')
    exported = export_checkpoint(workdir / 'fine', tmp_path / 'fine.stablehlo', platforms=['cpu'])
    assert (exported['n_channels'], exported['n_gray']) == (4, 1)


def test_a_surface_stage_learns_and_works_on_the_surface(trained, folder, tmp_path):
    """Of a run that is there already, only the stage that is new is trained."""
    workdir, _ = trained
    shutil.copytree(workdir, tmp_path / 'W')
    fields = {'stages.order': ('coarse', 'fine'), 'stages.fine.where': 'surface'}
    fields |= {'stages.fine.surface_voxels': 1, 'stages.fine.data.foreground_probability': 0.0}
    shutil.rmtree(tmp_path / 'W' / 'fine')
    best = train_experiment(make_config(folder, **fields), tmp_path / 'W')
    assert best.description['stages'][1]['config']['stage']['where'] == 'surface'
    history = open_checkpoint(list_checkpoints(tmp_path / 'W' / 'fine')[0]).description['history']
    assert 'dice' in history[-1]
    segmenter = load_segmenter(tmp_path / 'W')
    assert (segmenter.surface_voxels, segmenter.earlier.surface_voxels) == (1, None)
    options = Options(probabilities=True)
    source = folder / 'images' / 'cell_1.mrc'
    (outcome,) = segment_files(tmp_path / 'W', source, tmp_path / 'out', options=options)
    assert not outcome.error
    assert np.isfinite(read_volume(probability_path(outcome.labels)).data).all()


def test_one_volume_is_parted_alike_for_all_stages(tmp_path):
    lac, labels = make_cell(0)
    lac, labels = (np.concatenate([a, a]) for a in (lac, labels))
    write_volume(tmp_path / 'a.tif', Volume(lac))
    write_volume(tmp_path / 'a.labels.tif', Volume(labels))
    config = make_config(tmp_path)
    stages = [stage_config(config, name) for name in ('coarse', 'fine')]
    multiple = common_multiple(stages)
    assert multiple == (2, 2, 2)
    cuts = []
    for stage in stages:
        data = StageData(stage, None, multiple=multiple).load(stage, intensity='none', folder='')
        ((train,), (held,)) = data.train, data.validation
        assert train.shape[0] + held.shape[0] == -(-34 // stage.data.binning[0])
        cuts.append(train.shape[0] * stage.data.binning[0])
    assert cuts == [28, 28]
    with pytest.raises(InputError, match=r'out_of_fold\.folds: 2, with one volume .*expected 0'):
        train_experiment(config, tmp_path / 'W')
    assert not list_checkpoints(tmp_path / 'W' / 'coarse')  # told before anything is trained


def test_there_are_no_more_folds_than_volumes(folder, monkeypatch):
    """Every volume is then left out once, by itself."""
    config = make_config(folder, **{'out_of_fold.folds': 9})
    data = StageData(stage_config(config, 'coarse'), None, multiple=(2, 2, 2), n_folds=9)
    volumes = data.volumes('none')
    left_out = []

    def record(config, workdir, *, load, on_start):
        kept = {e.name for e in load(config, intensity='none', folder='').train}
        left_out.append({e.name for e in data.split(volumes)[0].values()} - kept)

    monkeypatch.setattr(train_cascade, 'train_network', record)
    monkeypatch.setattr(train_cascade, '_predict', lambda *args: dict.fromkeys(args[-1]))
    maps = train_cascade._predict_out_of_fold(data, folder, volumes, [])
    assert sorted(map(len, left_out)) == [1, 1, 1]
    assert len(set.union(*left_out)) == len(maps) == 3
