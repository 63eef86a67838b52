"""The README shows and names what there is."""

import ast
import importlib.util
import re
from pathlib import Path

from configs import cascade
from sxt_jax.models import NETWORKS, build_model, pretrained
from tests.models.random_variables import count, shapes

ROOT = Path(__file__).parents[1]


def test_the_readme_shows_what_there_is():
    """Its pictures exist, its tables are filled, and its commands name scripts and fields."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert '@@' not in text
    for picture in re.findall(r'!\[[^]]*\]\(([^)]+)\)', text):
        assert (ROOT / picture).stat().st_size > 1000, picture
    for name in ('benchmarks', 'real data'):
        table = text.partition(f'<!-- {name} -->')[2].partition(f'<!-- /{name} -->')[0]
        assert table.count('\n|') >= 3, name
    for module in re.findall(r'python3? -m ((?:launch|benchmarks)\.\w+)', text):
        assert importlib.util.find_spec(module), module
    for file in re.findall(r'configs/\w+\.py', text):
        assert (ROOT / file).exists(), file


def test_the_networks_are_as_the_readme_says():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    table = text.partition('<!-- networks -->')[2].partition('<!-- /networks -->')[0]
    rows = [line.strip('|').split('|') for line in table.splitlines() if line.startswith('| `')]
    configs = [ast.literal_eval(row[0].strip(' `')) for row in rows]
    assert {config['name'] for config in configs} == set(NETWORKS)
    for config, (_, _, parameters, image, heads, weights) in zip(configs, rows, strict=True):
        model = build_model(config)
        multiple = int(image.partition('×')[2])
        assert set(model.side_multiple) == {multiple}
        n_channels = 2 if config['name'] == 'cellpose2d' else 1
        shape = (1, *(2 * multiple,) * model.n_dims, n_channels)
        assert count(shapes(model, shape)['params']) == int(parameters.replace(',', ''))
        assert heads.strip() == 'as `resunet`' or set(model.head_activations) <= set(
            re.findall(r'`(\w+)`', heads)
        )
        for loader in re.findall(r'`(load_\w+)`', weights):
            assert callable(getattr(pretrained, loader))


def test_the_fields_that_the_readme_names_are_there():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    config = cascade.get_config()  # every field that experiments have, and those of stages
    named = re.findall(r'--config\.([\w.]+)', text)
    assert len(named) > 8
    for path in named:
        field = config
        for part in path.split('.'):
            assert part in field, path
            field = field[part]
