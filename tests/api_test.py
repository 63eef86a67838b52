"""Style by reflection: what is public is documented, typed, and keeps its options by name."""

import importlib
import inspect
import pkgutil

import pytest

import sxt_jax

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(sxt_jax.__path__, 'sxt_jax.')
    if not name.rpartition('.')[2].startswith('_')
]


def _public(module):
    for name, item in vars(module).items():
        own = getattr(item, '__module__', None) == module.__name__
        if own and not name.startswith('_') and (inspect.isfunction(item) or inspect.isclass(item)):
            yield name, item


@pytest.mark.parametrize('name', MODULES)
def test_public_things_are_documented_and_typed(name):
    module = importlib.import_module(name)
    for thing, item in _public(module):
        assert item.__doc__, f'{name}.{thing} has no docstring'
        if inspect.isfunction(item):
            signature = inspect.signature(item)
            assert signature.return_annotation is not signature.empty, f'{name}.{thing}'
            for parameter in signature.parameters.values():
                assert parameter.annotation is not parameter.empty, f'{name}.{thing}'


@pytest.mark.parametrize('name', MODULES)
def test_randomness_comes_first_and_options_by_name(name):
    module = importlib.import_module(name)
    for thing, item in _public(module):
        if not inspect.isfunction(item):
            continue
        parameters = list(inspect.signature(item).parameters.values())
        positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        names = [p.name for p in positional]
        assert 'key' not in names[1:], f'{name}.{thing}: key first, or by name'
        assert len(positional) <= 6, f'{name}.{thing}: {len(positional)} positional arguments'
        for p in positional:
            assert not (p.annotation in (bool, 'bool') and p.default is not p.empty), (
                f'{name}.{thing}: {p.name} is an option'
            )


FACE = {
    'sxt_jax.io': ('read_volume', 'write_volume'),
    'sxt_jax.models': ('build_model',),
    'sxt_jax.models.pretrained': (
        'load_deep_sxt',
        'load_biomedisa',
        'load_cellpose3d',
        'load_ncxt',
        'load_cellpose2d',
    ),
    'sxt_jax.inference': ('predict_volume',),
    'sxt_jax.measure': ('objects',),
    'sxt_jax.metrics': ('dice', 'matched_dice', 'average_precision'),
    'sxt_jax.instances': ('labels_to_flows', 'track', 'reconstruct'),
    'sxt_jax.labelling': ('interpolate',),
    'sxt_jax.ops': ('farneback', 'warp'),
    'sxt_jax.propagation': ('link',),
}


@pytest.mark.parametrize('name', FACE)
def test_the_face_is_there(name):
    module = importlib.import_module(name)
    for thing in FACE[name]:
        assert callable(getattr(module, thing))


def test_the_faces_arguments():
    from sxt_jax.inference import predict_volume
    from sxt_jax.io import read_volume
    from sxt_jax.labelling import interpolate
    from sxt_jax.measure import objects

    interpolation = list(inspect.signature(interpolate).parameters)
    assert interpolation[:3] == ['image', 'sparse_labels', 'key']
    assert {'n_walks', 'n_steps', 'axes', 'smooth'} <= set(interpolation)
    assert {'dataset', 'region'} <= set(inspect.signature(read_volume).parameters)
    predict = list(inspect.signature(predict_volume).parameters)
    assert predict[:3] == ['apply_fn', 'variables', 'image']
    assert {'tile', 'overlap', 'blend', 'batch_size', 'device_mesh'} <= set(predict)
    measured = list(inspect.signature(objects).parameters)
    assert measured[:3] == ['instances', 'voxel_size_nm', 'image']
