"""Exported networks run in a process that cannot import this package, with the same result."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from sxt_jax.core.errors import InputError
from sxt_jax.inference import make_apply_fn
from sxt_jax.models import build_model
from sxt_jax.pipelines.export_network import export_checkpoint, export_network
from sxt_jax.training.checkpoint import list_checkpoints, open_checkpoint, save_checkpoint
from tests.pipelines.exports import WITHOUT_THE_PACKAGE

VOLUMES = {'name': 'unet3d', 'n_labels': 3, 'filters': (2, 3)}
SLICES = {'name': 'cellpose2d', 'features': (2, 3)}


def _network(config, shape):
    """A model and variables with statistics that matter, as training leaves them."""
    model = build_model(config)
    x = jax.random.normal(jax.random.key(1), shape)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    variables['batch_stats'] = jax.tree.map(lambda a: a + 0.2, variables['batch_stats'])
    return model, variables, x


def _run(folder, names):
    """Results of exported files in a process without this package; inputs are `name`.npy."""
    code = f"""{WITHOUT_THE_PACKAGE}
import jax, jax.export, numpy as np
for name in {list(names)!r}:
    blob = bytearray(open(name + '.stablehlo', 'rb').read())
    heads = jax.jit(jax.export.deserialize(blob).call)(np.load(name + '.npy'))
    np.savez(name + '.npz', **heads)
"""
    subprocess.run([sys.executable, '-c', code], cwd=folder, check=True, timeout=300)
    return {name: np.load(folder / f'{name}.npz') for name in names}


def test_runs_without_the_package_to_the_same_result(tmp_path):
    expected = {}
    for name, config, shape in (
        ('volumes', VOLUMES, (2, 4, 4, 6, 1)),
        ('slices', SLICES, (2, 4, 6, 2)),
    ):
        model, variables, x = _network(config, shape)
        blob = export_network(make_apply_fn(model), variables, input_shape=shape, platforms=['cpu'])
        (tmp_path / f'{name}.stablehlo').write_bytes(blob)
        np.save(tmp_path / f'{name}.npy', x)
        expected[name] = jax.jit(model.apply)(variables, x)
        assert jax.device_count() == 8
        assert export.deserialize(bytearray(blob)).nr_devices == 1
    logits = expected['volumes'].pop('logits')
    expected['volumes']['probs'] = jax.nn.softmax(logits)
    found = _run(tmp_path, expected)
    for name, heads in expected.items():
        assert set(found[name].files) == set(heads)
        for head, values in heads.items():
            np.testing.assert_allclose(found[name][head], values, atol=1e-5)


def test_each_platform_gets_its_own_form_of_a_convolution():
    shape = (1, 2, 8, 8, 1)
    model, variables, _ = _network(VOLUMES, shape)

    def ranks(*platforms):
        """How many axes the convolutions' images have, channels and batch included."""
        blob = export_network(
            make_apply_fn(model), variables, input_shape=shape, platforms=platforms
        )
        exported = export.deserialize(bytearray(blob))
        assert exported.platforms == platforms
        images = re.findall(r'stablehlo\.convolution.* : \(tensor<([^>]*)x', exported.mlir_module())
        return {image.count('x') + 1 for image in images}

    assert ranks('cpu') == {4}  # a CPU computes 3-D convolutions as 2-D ones
    assert ranks('cuda') == {5}
    assert ranks('cpu', 'cuda') == {4, 5}


def test_bfloat16_is_inside_only():
    model, variables, x = _network({**VOLUMES, 'dtype': 'bfloat16'}, (1, 2, 2, 4, 1))
    blob = export_network(
        make_apply_fn(model), variables, input_shape=x.shape, platforms=['cpu', 'tpu']
    )
    exported = export.deserialize(bytearray(blob))
    assert 'xbf16>' in exported.mlir_module()
    assert {a.dtype for a in (*exported.in_avals, *exported.out_avals)} == {jnp.dtype('float32')}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    for name, config, shape in (
        ('volumes', VOLUMES, (1, 2, 4, 4, 1)),
        ('slices', SLICES, (1, 4, 4, 1)),
    ):
        _, variables, _ = _network(config, shape)
        facts = {
            'description': name,
            'model': config,
            'n_channels': 1,
            'classes': {'names': ['background', 'a', 'b'], 'values': [0, 3, 7]},
            'intensity': {'kind': 'reference', 'mean': [0.5], 'std': [0.25]},
            'working_shape': None,
            'voxel_size_nm': [30.0, 20.0, 20.0],
            'tiling': {'tile': [2, 4, 4], 'overlap': [0, 2, 2], 'blend': 'cosine'},
            'config': {'compute_dtype': 'float32'},
        }
        save_checkpoint(folder / name, 3, variables, facts)
    del facts['tiling']
    save_checkpoint(folder / 'no tile', 3, variables, facts)
    return folder


def test_what_the_checkpoint_does_to_tiles_is_in_the_file(workdir, tmp_path):
    _, variables, x = _network(VOLUMES, (1, 2, 4, 4, 1))
    facts = dict(open_checkpoint(list_checkpoints(workdir / 'volumes')[0]).description)
    save_checkpoint(tmp_path / 'run', 3, variables, {**facts, 'standardise_tiles': True})
    output = tmp_path / 'model.stablehlo'
    export_checkpoint(tmp_path / 'run', output, platforms=['cpu'])
    network = jax.jit(export.deserialize(bytearray(output.read_bytes())).call)
    np.testing.assert_allclose(network(3 * x + 7)['probs'], network(x)['probs'], atol=1e-5)


def test_what_an_import_says_of_gray_values_and_heads_goes_along(workdir, tmp_path):
    facts = dict(open_checkpoint(list_checkpoints(workdir / 'slices')[0]).description)
    told = {'imported': {'format': 'f', 'file': 'w.pt'}, 'conventions': {'intensity': 'each slice'}}
    _, variables, _ = _network(SLICES, (1, 4, 4, 1))
    save_checkpoint(tmp_path / 'run', 3, variables, {**facts, **told})
    found = export_checkpoint(tmp_path / 'run', tmp_path / 'm.stablehlo', platforms=['cpu'])
    assert {name: found[name] for name in told} == told


def test_writes_the_conventions_beside(workdir, tmp_path):
    output = tmp_path / 'new' / 'model.stablehlo'
    conventions = export_checkpoint(workdir / 'volumes', output, platforms=['cpu'])
    assert conventions == json.loads((tmp_path / 'new' / 'model.json').read_text())
    assert conventions['stablehlo_sha256'] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert conventions['input'] == {'axes': 'bzyxc', 'shape': [1, 2, 4, 4, 1], 'dtype': 'float32'}
    assert conventions['heads']['probs']['shape'] == [1, 2, 4, 4, 3]
    assert conventions['classes']['values'] == [0, 3, 7]
    assert conventions['intensity'] == {'kind': 'reference', 'mean': [0.5], 'std': [0.25]}
    assert conventions['platforms'] == ['cpu']
    assert conventions['step'] == 3
    changed = export_checkpoint(
        workdir / 'volumes', output, tile=(2, 2, 6), batch_size=2, platforms=['cpu']
    )
    assert changed['input']['shape'] == [2, 2, 2, 6, 1]
    assert changed == json.loads((tmp_path / 'new' / 'model.json').read_text())
    assert sorted(p.name for p in output.parent.iterdir()) == ['model.json', 'model.stablehlo']


def test_a_network_of_slices_takes_tiles_of_two_sides(workdir, tmp_path):
    output = tmp_path / 'model.stablehlo'
    facts = export_checkpoint(workdir / 'slices', output, platforms=['cpu'])
    assert facts['input'] == {'axes': 'byxc', 'shape': [1, 4, 4, 1], 'dtype': 'float32'}
    assert {name: head['shape'] for name, head in facts['heads'].items()} == {
        'foreground': [1, 4, 4, 1],
        'foreground_logit': [1, 4, 4, 1],
        'flows': [1, 4, 4, 2],
    }


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'tile': (2, 4, 5)}, 'tile: (2, 4, 5); expected (z, y, x), multiples of 2 × 2 × 2'),
        ({'tile': (4, 4)}, 'tile: (4, 4); expected (z, y, x)'),
        ({'tile': (0, 4, 4)}, 'tile: (0, 4, 4)'),
        ({'batch_size': 0}, 'batch_size: 0'),
        ({'platforms': ['cpu', 'gpu']}, 'platforms: cpu,gpu; expected different ones of cpu, cuda'),
        ({'platforms': ['cpu', 'cpu']}, 'platforms: cpu,cpu'),
        ({'platforms': []}, 'platforms: nothing'),
        ({'dtype': 'int8'}, "dtype: 'int8'"),
        ({'dtype': 'auto'}, "dtype: 'auto'"),
        ({'output': 'folder'}, 'folder: a folder'),
        ({'output': 'model.json'}, 'model.json: the name of the conventions'),
        ({'output': 'config.stablehlo'}, 'config.json: is there, and is no export'),
        ({'output': 'tomogram.mrc'}, 'tomogram.mrc: is there, and is no export'),
        ({'output': 'file/model.stablehlo'}, 'cannot be written'),
        ({'checkpoint': 'no tile'}, 'tile: the checkpoint names none; expected (y, x)'),
        ({'checkpoint': 'nothing'}, 'nothing: no checkpoint'),
    ],
)
def test_refuses_what_cannot_be_done_and_leaves_nothing(workdir, tmp_path, options, told):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('')
    (tmp_path / 'config.json').write_text('{"seed": 0}')
    (tmp_path / 'tomogram.mrc').write_text('gray')
    before = sorted(tmp_path.rglob('*'))
    output = tmp_path / options.pop('output', 'model.stablehlo')
    checkpoint = workdir / options.pop('checkpoint', 'volumes')
    with pytest.raises(InputError) as error:
        export_checkpoint(checkpoint, output, **{'platforms': ['cpu'], **options})
    assert told in str(error.value)
    assert sorted(tmp_path.rglob('*')) == before
    assert (tmp_path / 'config.json').read_text() == '{"seed": 0}'
    assert (tmp_path / 'tomogram.mrc').read_text() == 'gray'


def test_an_output_without_a_name_is_refused(workdir):
    with pytest.raises(InputError, match='output: '):
        export_checkpoint(workdir / 'volumes', '')


def test_a_2d_network_names_its_two_sides(workdir, tmp_path):
    with pytest.raises(InputError, match=r'\(y, x\), multiples of 2 × 2'):
        export_checkpoint(workdir / 'slices', tmp_path / 'm.stablehlo', tile=(3, 4))
