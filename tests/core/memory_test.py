"""How much memory a process may take, by what the system tells."""

from __future__ import annotations

from sxt_jax.core import memory


def _group(folder, *, limit, used, cached=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'memory.max').write_text(f'{limit}\n')
    (folder / 'memory.current').write_text(f'{used}\n')
    (folder / 'memory.stat').write_text(f'anon 5\ninactive_file {cached}\n')


def _machine(monkeypatch, tmp_path, *, groups=()):
    (tmp_path / 'meminfo').write_text('MemTotal: 64 kB\nMemFree: 3 kB\nMemAvailable: 40 kB\n')
    monkeypatch.setattr(memory, '_MEMINFO', tmp_path / 'meminfo')
    monkeypatch.setattr(memory, '_of_machine', lambda: 64 * 1024)
    monkeypatch.setattr(memory, '_groups', lambda: list(groups))


def test_caches_of_files_count_as_free(monkeypatch, tmp_path):
    _machine(monkeypatch, tmp_path)
    assert memory.free_host_bytes() == 40 * 1024
    assert memory.host_bytes() == 64 * 1024


def test_the_narrowest_group_limits(monkeypatch, tmp_path):
    _group(tmp_path / 'job', limit='max', used=10_000)
    _group(tmp_path / 'job' / 'step', limit=30_000, used=20_000, cached=5_000)
    _group(tmp_path / 'wide', limit=50_000, used=30_000)
    groups = [tmp_path / 'job' / 'step', tmp_path / 'job', tmp_path / 'wide', tmp_path / 'none']
    _machine(monkeypatch, tmp_path, groups=groups)
    assert memory.free_host_bytes() == 15_000
    assert memory.host_bytes() == 30_000
    _machine(monkeypatch, tmp_path, groups=groups[1:])
    assert memory.free_host_bytes() == 20_000


def test_a_system_that_tells_nothing(monkeypatch, tmp_path):
    _machine(monkeypatch, tmp_path)
    monkeypatch.setattr(memory, '_MEMINFO', tmp_path / 'missing')
    monkeypatch.setattr(memory, '_of_machine', lambda: None)
    monkeypatch.setattr(memory, '_pages', lambda name: None)
    assert memory.free_host_bytes() is None
    assert memory.host_bytes() is None


def test_here():
    free, whole = memory.free_host_bytes(), memory.host_bytes()
    assert 0 < free <= whole
