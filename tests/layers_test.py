"""The rooms of the house: imports go down only."""

import ast
import importlib.util
from pathlib import Path

import pytest

import sxt_jax

PACKAGE = Path(sxt_jax.__file__).parent
ROOT = PACKAGE.parent
LEVELS = {
    'core': 0,
    'ops': 1,
    'io': 1,
    'losses': 1,
    'metrics': 1,
    'data': 2,
    'models': 2,
    'inference': 3,
    'labelling': 3,
    'instances': 3,
    'propagation': 3,
    'measure': 3,
    'training': 4,
    'plots': 4,
    'pipelines': 5,
}
MODULES = sorted(PACKAGE.rglob('*.py'))
HEAVY = {'torch', 'cv2', 'napari', 'trimesh', 'pymeshfix', 'tensorflow', 'pandas'}


def _room(module: str) -> str | None:
    parts = module.split('.')
    return parts[1] if parts[0] == 'sxt_jax' and len(parts) > 1 else None


def _imports(path: Path) -> set[str]:
    """Absolute names of the modules a file imports, wherever in the file."""
    module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    package = module.removesuffix('.__init__') if path.stem == '__init__' else module
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ''
            if node.level:
                base = package if path.stem == '__init__' else package.rpartition('.')[0]
                name = importlib.util.resolve_name('.' * node.level + name, base)
            found |= {name} | {f'{name}.{alias.name}' for alias in node.names}
    return found


def test_there_are_modules_in_known_rooms():
    rooms = {_room('.'.join(p.relative_to(ROOT).with_suffix('').parts)) for p in MODULES}
    assert len(MODULES) > 40
    assert rooms - {'__init__'} <= set(LEVELS)


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = _room('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    for name in _imports(path):
        assert name.split('.')[0] not in HEAVY, f'{name} is an extra'
        assert name.split('.')[0] not in {'launch', 'configs', 'benchmarks', 'tests'}
        room = _room(name)
        if room in LEVELS and own in LEVELS and room != own:
            assert LEVELS[room] < LEVELS[own], f'{own} imports {name}'


def test_configs_import_ml_collections_and_common_only():
    for path in (ROOT / 'configs').glob('*.py'):
        roots = {name.split('.')[0] for name in _imports(path)}
        assert roots <= {'__future__', 'ml_collections', 'configs'}, path


def test_launch_scripts_are_thin_and_say_how_to_run_them():
    scripts = sorted((ROOT / 'launch').glob('*.py'))
    assert len(scripts) >= 7
    for path in scripts:
        text = path.read_text(encoding='utf-8')
        if path.stem in ('__init__', 'common'):
            continue
        assert len(text.splitlines()) < 80, path
        assert f'python -m launch.{path.stem}' in text, path


def test_files_stay_readable():
    long = [p for p in MODULES if len(p.read_text(encoding='utf-8').splitlines()) > 450]
    assert not long
