"""The recipe of deep_sxt from files to a checkpoint: labelled and unlabelled slices in turns."""

import shutil

import jax
import numpy as np
import pytest

from sxt_jax.core.devices import make_device_mesh
from sxt_jax.core.errors import InputError
from sxt_jax.core.volume import Volume, load
from sxt_jax.data.labelled_slices import value_range
from sxt_jax.io import read_volume, write_volume
from sxt_jax.pipelines.check_config import check_config
from sxt_jax.pipelines.segment_volume import segment_files
from sxt_jax.pipelines.train_network import (
    build_network,
    describe_run,
    load_training_data,
    plot_curves,
    train_network,
)
from sxt_jax.training.checkpoint import latest_checkpoint, list_checkpoints, open_checkpoint
from sxt_jax.training.logbook import read_metrics
from sxt_jax.training.objectives import parameter_path
from tests.training.slices import SHAPE, make_lines, tiny_config, write_stacks

EVERY = {'checkpoint.every_steps': 3, 'checkpoint.keep': 9}  # between the turns too


def semi(folder, **fields):
    return tiny_config(folder, **{'data.unlabelled': str(folder / 'others'), **EVERY, **fields})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('slices')
    write_stacks(made)
    return made


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('run')
    train_network(semi(folder), workdir)
    return workdir


def _data(config, folder):
    return load_training_data(config, intensity='slice', folder=folder)


def _leaves(workdir, step):
    """Parameters and statistics of a checkpoint, by path."""
    saved = open_checkpoint(workdir / 'checkpoints' / str(step)).restore()
    kept = {name: saved[name] for name in ('params', 'batch_stats')}
    return {parameter_path(p): a for p, a in jax.tree_util.tree_leaves_with_path(kept)}


def test_unlabelled_slices_leave_the_label_decoder_as_it_is(trained):
    """Not a bit of it changes, its statistics included; all else does."""
    assert [path.name for path in list_checkpoints(trained)] == ['3', '6', '9', '12']
    for before, after, unlabelled in ((3, 6, False), (6, 9, True), (9, 12, False)):
        old, new = _leaves(trained, before), _leaves(trained, after)
        for path, array in old.items():
            same = np.array_equal(array, new[path])
            assert same == (unlabelled and path.split('/')[1].startswith('label_')), path


def test_losses_and_scores_are_told_and_drawn(trained):
    rows = read_metrics(trained)
    assert [row['step'] for row in rows] == [6, 12]
    for row in rows:
        of_label, of_image = row['supervised/label_loss'], row['supervised/image_loss']
        assert row['supervised/loss'] == pytest.approx(0.99 * of_label + 0.01 * of_image)
        assert {
            'unsupervised/loss', 'unsupervised/image_accuracy', 'supervised/label_accuracy',
            'supervised/image_accuracy', 'validation/loss', 'validation/label_loss',
            'validation/image_loss', 'validation/accuracy', 'validation/image_accuracy',
        } <= set(row)  # fmt: skip
    assert plot_curves(trained).exists()
    (events,) = (trained / 'tensorboard').iterdir()
    assert b'validation_0' in events.read_bytes()
    assert b'\x89PNG' in events.read_bytes()


def test_the_checkpoint_tells_how_to_use_it(trained):
    facts = latest_checkpoint(trained).description
    assert facts['classes']['names'] == ['background', 'class 1']
    assert facts['intensity']['kind'] == 'slice'
    assert facts['voxel_size_nm'] == [10, 10, 10]
    assert len(facts['volumes']['train']) == 2
    (held,) = facts['volumes']['validation']
    assert held.startswith('a slice')
    assert facts['unlabelled'].startswith('7 slices')
    assert 'above 0' in facts['conventions']['heads']['label']


def test_a_stopped_run_goes_on_to_the_same_end(folder, trained, tmp_path):
    for step in ('3', '6', '9'):
        name = f'checkpoints/{step}'
        shutil.copytree(trained / name, tmp_path / name)
    train_network(semi(folder), tmp_path)
    again, once = (latest_checkpoint(path).restore() for path in (tmp_path, trained))
    jax.tree.map(np.testing.assert_array_equal, again, once)
    with pytest.raises(InputError, match='unlabelled is now'):
        train_network(tiny_config(folder, **EVERY), tmp_path)


def test_what_was_trained_segments(folder, trained, tmp_path):
    outcomes = segment_files(trained, folder / 'others', tmp_path)
    (labels,) = (read_volume(outcome.labels) for outcome in outcomes)
    assert labels.shape == (4, 22, 30)
    assert labels.class_names == {0: 'background', 1: 'class 1'}
    assert set(np.unique(labels.data)) <= {0, 1}


def test_slices_are_standardised_one_by_one(folder, tmp_path):
    data = _data(semi(folder), tmp_path)
    (n_train, n_held, n_unlabelled) = map(len, (data.train, data.validation, data.unlabelled))
    assert (n_train, n_held, n_unlabelled) == (2, 1, 7)
    for example in (*data.train, *data.validation, *data.unlabelled):
        image = load(example.image)
        assert example.shape[0] == 1
        np.testing.assert_allclose((image.mean(), image.std()), (0, 1), atol=1e-5)
        unlabelled = (load(example.labels) == -1).all()
        assert unlabelled == example.name.startswith('u')  # empty slices of `a` are not ignored
    extremes = [f(load(e.image)) for e in data.unlabelled for f in (np.min, np.max)]
    assert value_range(data.unlabelled) == pytest.approx(max(extremes) - min(extremes))


def test_which_slices_count_as_labelled(folder, tmp_path):
    data = _data(tiny_config(folder, **{'data.empty_slices': 'background'}), tmp_path)
    assert (len(data.train) + len(data.validation), len(data.unlabelled)) == (6, 0)
    data = _data(tiny_config(folder), tmp_path)
    assert (len(data.train) + len(data.validation), len(data.unlabelled)) == (3, 3)


def test_values_are_merged_into_one_mask(tmp_path):
    """Those of the wall are 0 and 32, so that slices of zeros cannot be the unlabelled ones."""
    image, mask = make_lines(0)
    labels = np.where(mask, 32 * (np.arange(SHAPE[2]) > 9), 159).astype(np.uint8)
    labels[[0, 5]] = 1
    write_volume(tmp_path / 'a.tif', Volume(image))
    write_volume(tmp_path / 'a.labels.tif', Volume(labels))
    fields = {'data.classes': 'background=rest,wall=0+32', 'data.ignore_value': 1}
    config = tiny_config(tmp_path, **{'data.empty_slices': 'background'}, **fields)
    data = _data(config, tmp_path)
    assert (len(data.train) + len(data.validation), len(data.unlabelled)) == (4, 2)
    example = data.train[0]
    np.testing.assert_array_equal(load(example.labels)[0], mask[int(example.name[-1])])
    with pytest.raises(InputError, match=r'empty_slices.* 0 is not background .*ignore_value'):
        _data(tiny_config(tmp_path, **fields), tmp_path)


def test_pairs_of_slices_of_many_sizes_are_a_data_set(tmp_path):
    """As published, values 0 and 255; a slice may hold nothing, a stack of them may not."""
    for i, shape in enumerate(((20, 30), (33, 17), (25, 25))):
        image, mask = make_lines(i, (1, *shape))
        write_volume(tmp_path / f's{i}.tif', Volume(image))
        write_volume(tmp_path / f's{i}.labels.tif', Volume(255 * mask * (i > 0)))
    data = _data(tiny_config(tmp_path, **{'data.empty_slices': 'background'}), tmp_path)
    assert sorted(e.name for e in (*data.train, *data.validation)) == ['s0', 's1', 's2']
    assert data.classes.values == (0, 255)


@pytest.mark.parametrize('sides', [((20, 30), (20, 30)), ((20, 30), (33, 17))])
def test_unlabelled_slices_may_be_files_each(folder, tmp_path, sides):
    """Of one size they are a volume; labels that lie beside them are no slices."""
    config = tiny_config(folder, **{'data.unlabelled': str(tmp_path)})
    for i, shape in enumerate(sides):
        image, mask = make_lines(i, (1, *shape))
        write_volume(tmp_path / f's{i}.tif', Volume(image))
    assert sum(e.shape[1:] in sides for e in _data(config, tmp_path).unlabelled) == 2
    write_volume(tmp_path / 's1.labels.tif', Volume(mask))
    assert sum(e.shape[1:] in sides for e in _data(config, tmp_path).unlabelled) == 2


@pytest.mark.parametrize(
    ('fields', 'names', 'n_steps'),
    [
        ({}, ['unsupervised', 'supervised'], [3, 3]),
        ({'data.unlabelled': ''}, ['unsupervised', 'supervised'], [3, 3]),
        ({'data.steps_per_epoch': 0}, ['unsupervised', 'supervised'], [3, 12]),
        ({'data.steps_per_epoch': 0, 'data.unlabelled_slices': 0},
         ['unsupervised', 'supervised'], [7, 12]),
        ({'model.heads': ('label',)}, ['supervised'], [3]),
    ],
)  # fmt: skip
def test_what_is_learnt_in_turns(folder, tmp_path, fields, names, n_steps):
    config = semi(folder, **fields)
    check_config(config)
    data = _data(config, tmp_path)
    model = build_network(config, n_classes=2)
    run = describe_run(config, tmp_path, model, data, make_device_mesh(jax.devices()[:1]))
    assert [o.name for o in run.objectives] == names
    assert [o.stream.steps_per_epoch for o in run.objectives] == n_steps
    assert [o.frozen for o in run.objectives] == [('^label_',), ()][-len(names) :]
    batch = run.objectives[0].stream.batch(0)
    assert batch['image'].shape == (1, 1, 16, 16, 1)
    assert (batch['labels'] == -1).all() == (len(names) == 2 and bool(config.data.unlabelled))


def test_training_on_labels_alone(folder, tmp_path):
    config = tiny_config(folder, **{
        'model.heads': ('label',), 'epochs': 1, 'data.unlabelled': str(folder / 'others'),
    })  # fmt: skip
    best = train_network(config, tmp_path)
    (row,) = read_metrics(tmp_path)
    assert row['loss'] == row['label_loss']
    assert row['validation/loss'] == row['validation/label_loss']
    assert not any('image' in name for name in row)
    assert not any(name.startswith('image_') for name in best.restore()['params'])


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        ({'model.heads': ('image',)}, r'config\.model\.heads'),
        ({'data.patch': (2, 16, 16)}, r'config\.data\.patch.*one slice'),
        ({'data.patch': (1, 10, 10)}, r'config\.data\.patch.*11 pixels'),
        ({'inference.tile': (2, 16, 16)}, r'config\.inference\.tile'),
        ({'data.empty_slices': 'maybe'}, r'config\.data\.empty_slices'),
        ({'data.exchange_axes': 0.5}, r'config\.data\.exchange_axes'),
        ({'data.repeats': 0}, r'config\.data\.repeats'),
        ({'data.sampling': 'random', 'data.repeats': 2}, r"config\.data\.repeats.*'each'"),
        ({'data.unlabelled_slices': -1}, r'config\.data\.unlabelled_slices'),
        ({'data.working_shape': (8, 8, 8)}, r'config\.data\.working_shape'),
        ({'distortion.probability': 0.5}, r'config\.distortion\.probability'),
        ({'class_balance': True}, r'config\.class_balance'),
        ({'mask.label_weight': 1.5}, r'config\.mask\.label_weight'),
        ({'mask.huber_delta': 0.0}, r'config\.mask\.huber_delta'),
        ({'checkpoint.plateau': 'loss'}, r"config\.checkpoint\.plateau.*'validation/loss'"),
    ],
)
def test_what_does_not_fit_is_told_before_work_begins(folder, fields, named):
    with pytest.raises(InputError, match=named):
        check_config(tiny_config(folder, **fields))


def test_data_that_make_no_mask_are_told(folder, tmp_path):
    image, mask = make_lines(0)
    write_volume(tmp_path / 'a.tif', Volume(image))
    write_volume(tmp_path / 'a.labels.tif', Volume(mask + mask * (np.arange(SHAPE[2]) > 9)))
    with pytest.raises(InputError, match=r'2 classes besides background .*; expected one'):
        _data(tiny_config(tmp_path), tmp_path)
    others = tmp_path / 'others'
    write_volume(others / 'u.tif', Volume(np.where(image > 3, np.nan, image)))
    with pytest.raises(InputError, match=r'u\.tif: .* NaN'):
        _data(tiny_config(folder, **{'data.unlabelled': str(others)}), tmp_path)
    with pytest.raises(InputError, match='does not exist'):
        _data(tiny_config(folder, **{'data.unlabelled': str(tmp_path / 'x')}), tmp_path)
