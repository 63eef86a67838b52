"""The README shows and names what there is."""

import importlib.util
import re
from pathlib import Path

from configs import common

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


def test_the_fields_that_the_readme_names_are_there():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    config = common.get_config()
    config.model = common.unet3d()
    named = re.findall(r'--config\.([\w.]+)', text)
    assert len(named) > 8
    for path in named:
        field = config
        for part in path.split('.'):
            assert part in field, path
            field = field[part]
