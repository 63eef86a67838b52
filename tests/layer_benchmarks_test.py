"""Benchmarks of layers and of what the device can do: counts made by hand, floors, tables."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import device_peaks, layers, network_layers, report, roofline
from benchmarks.device_peaks import Peaks
from benchmarks.network_layers import Costs, Layer, Network
from sxt_jax.models import UNet3D
from sxt_jax.models.blocks import BatchNorm, Conv, ConvTranspose

KERAS = ((2, 1), (2, 1))
MACHINE = {'device': 'cpu', 'processor': 'P', 'platform': 'cpu', 'n_cores': 2, 'load': 0.5}
RUN = {'smoke': False, 'repeats': 3, 'run_s': 0.5, 'dtype': 'float32', **MACHINE}


def one_level():
    """Convolutions 1 → 3, 3 → 3 and 3 → 2, the first two with a norm behind."""
    shapes = {'forward': (1, 4, 4, 4, 1), 'step': (1, 4, 4, 4, 1)}
    return Network('one level', UNet3D(2, (3,)), shapes)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(network_layers.NETWORKS, 'tiny', lambda size, dtype: one_level())


def a_layer(module, *inputs, is_first=False):
    output = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0),
            *map(np.zeros, inputs),
            **({'train': False} if isinstance(module, BatchNorm) else {}),
        )
    )[0]
    return Layer(module, inputs, output.shape, is_first)


def test_pairs_of_outputs_and_taps_leave_zeros_out():
    assert network_layers.tap_pairs(4, 3, 1, (1, 1)) == 2 + 3 + 3 + 2
    assert network_layers.tap_pairs(4, 4, 2, (1, 1)) == 3 + 3
    assert network_layers.spread_pairs(2, 2, (1, 1)) == 4
    assert network_layers.spread_pairs(2, 3, (1, 2)) == 1 + 2 + 1 + 1


def test_arithmetic_of_single_layers():
    conv = a_layer(Conv(6, (3, 3)), (2, 4, 4, 5))
    assert network_layers.flop(conv) == 2 * 2 * 10**2 * 5 * 6
    transposed = a_layer(ConvTranspose(7, (2, 2), ((1, 1),) * 2), (1, 2, 2, 3))
    assert network_layers.flop(transposed) == 2 * 4**2 * 3 * 7
    # Of the repeated image, outputs see 1, 2, 2 and 1 different voxels along an axis of 4.
    joined = a_layer(Conv(2, (3, 3, 3)), (1, 4, 4, 4, 3), (1, 2, 2, 2, 5))
    assert network_layers.flop(joined) == 2 * (10**3 * 3 + 6**3 * 5) * 2
    assert network_layers.flop(a_layer(BatchNorm(), (1, 4, 4, 3))) == 0
    assert joined.name == 'conv 3×3×3, 5 up + 3 → 2, 1×4×4×4'


def test_least_costs_of_a_network():
    network = one_level()
    called = network_layers.trace(network.model, network.shapes['step']).layers
    assert [layer.name.split(',')[0] for layer in called] == [
        'conv 3×3×3', 'batch norm', 'conv 3×3×3', 'batch norm', 'conv 1×1×1',
    ]  # fmt: skip
    first, second, head = 2 * 1000 * 3, 2 * 1000 * 9, 2 * 64 * 6
    n_weights = 27 * 3 + 3 + 27 * 9 + 3 + 2 * 2 * 3 + 3 * 2 + 2
    made = 4 * 64 * (3 + 3 + 2)
    assert network_layers.least_costs(network, 'forward') == Costs(
        first + second + head, 4 * n_weights + 4 * 64 + made
    )
    assert network_layers.least_costs(network, 'step') == Costs(
        2 * first + 3 * (second + head), 16 * n_weights + 4 * 64 + 3 * made
    )


def test_floor_is_of_the_slower_of_arithmetic_and_memory():
    assert roofline.floor_seconds(Costs(60.0, 10.0), flop_s=20.0, bytes_s=10.0) == 3.0
    assert roofline.floor_seconds(Costs(60.0, 50.0), flop_s=20.0, bytes_s=10.0) == 5.0


LAYERS = {
    'joined': lambda: a_layer(Conv(2, (3, 3, 3)), (1, 8, 8, 16, 3), (1, 4, 4, 8, 2)),
    'strided, padded behind': lambda: a_layer(Conv(3, (3, 3), 2), (1, 6, 4, 2)),
    'transposed': lambda: a_layer(ConvTranspose(3, (3, 3), KERAS), (2, 3, 4, 2)),
    'norm of an image': lambda: a_layer(BatchNorm(), (2, 4, 3, 2), is_first=True),
}


@pytest.mark.parametrize('name', LAYERS)
def test_layers_are_those_of_torch_and_of_xla(name):
    layer = LAYERS[name]()
    inputs = layers.draw_inputs(layer)
    results = layers.our_run(layer, 'step', inputs)()
    found = layers.on_host(layer, results)
    plain = layers.plain_layer(layer, 'step')(inputs.variables, inputs.images, inputs.gradient)
    layers.compare(found, layers.on_host(layer, plain), layer.dtype)
    assert ('x' in found) != layer.is_first
    with pytest.raises(AssertionError, match='y'):
        layers.compare({**found, 'y': 1.001 * found['y']}, found, layer.dtype)
    pytest.importorskip('torch')
    theirs = pytest.importorskip('benchmarks.torch_layers')
    for layout in theirs.layouts(len(layer.output) - 2).values():
        expected = layers.torch_run(layer, 'step', inputs, layout)()
        layers.compare(found, layers.on_host(layer, expected), layer.dtype)


@pytest.mark.usefixtures('tiny')
def test_layers_of_a_network_are_measured_slowest_first():
    records = layers.measure('tiny', 'forward', size='small', most=2, repeats=1)
    assert len(records) == 2
    facts = [record['facts'] for record in records]
    assert facts[0]['share'] >= facts[1]['share'] > 0
    assert all(f['run_s'] > 0 and f['sum_s'] > 0 for f in facts)
    heads, *rows = layers.table_rows(records)
    assert [row[2] for row in rows] == [f['layer'] for f in facts]
    assert all(len(row) == len(heads) for row in rows)


@pytest.mark.usefixtures('tiny')
def test_roofline_of_a_network():
    peaks = Peaks({'float32': 1e9, 'bfloat16': 2e9}, 1e9)
    record = roofline.measure('tiny', 'forward', peaks, size='small', repeats=1)
    costs = network_layers.least_costs(one_level(), 'forward')
    assert record['facts']['floor_s'] == max(costs.flop, costs.n_bytes) / 1e9
    assert record['compile_s'] == record['facts']['compile_s'] > 0
    heads, row = roofline.table_rows([record])
    assert dict(zip(heads, row, strict=True))['bound by'] == 'products'


def test_a_gradient_along_which_the_loss_does_not_change_so_is_refused():
    _, run, check = roofline.step_case(one_level())
    check(run())
    with pytest.raises(AssertionError):  # momenta: 1.9 times the gradient
        check(run())


def a_peak(peak, rate, dtype='float32', **others):
    facts = {'peak': peak, 'library': 'JAX'}
    unit = 'GB/s' if peak == 'copy' else 'TFLOP/s'
    record = {'benchmark': 'device_peaks', 'case': f'{peak} {dtype}', 'shape': [8], 'unit': unit}
    return {**RUN, **record, 'dtype': dtype, 'rate': rate, 'facts': facts, **others}


def test_newest_peaks_of_a_device():
    old, new = (
        [a_peak('matmul', r), a_peak('matmul', 2 * r, 'bfloat16'), a_peak('copy', 3 * r)]
        for r in (1.0, 2.0)
    )
    other = {'benchmark': 'other', 'case': 'x'}
    records = [*old, *new, a_peak('copy', 9.0, smoke=True), a_peak('copy', 9.0, device='X'), other]
    found = device_peaks.newest_peaks(records, device='cpu', processor='P', n_cores=2)
    assert found == Peaks({'float32': 2e12, 'bfloat16': 4e12}, 6e9)
    assert device_peaks.newest_peaks(records, device='cpu', n_cores=4) is None
    assert device_peaks.newest_peaks(old[1:], device='cpu') is None
    _, *rows = device_peaks.table_rows(records)
    assert [row[3] for row in rows] == ['2 TFLOP/s', '4 TFLOP/s', '6 GB/s', '9 GB/s']


def test_peaks_are_measured_and_checked():
    records = device_peaks.measure_peaks(smoke=True, repeats=1)
    ours = [r['case'] for r in records if r['facts']['library'] == 'JAX']
    assert len(ours) == 3
    (case, *_) = device_peaks.matmul_cases('float32', 16, 1)
    with pytest.raises(AssertionError):
        case.check(case.run() * 1.001)


def a_layer_record(layer, run, share, **more):
    facts = {'network': 'N', 'size': 'small', 'kind': 'step', 'layer': layer, 'count': 2,
             'share': share, 'sum_s': 2.0, 'flop': 5e8, 'run_s': 0.5, 'run': run}  # fmt: skip
    facts |= more
    return {**RUN, 'benchmark': 'layers', 'case': layer, 'shape': [1], 'facts': facts}


def test_tables_from_made_records():
    records = [
        a_layer_record('old', '2026-01-01T00:00:00', 0.5),
        a_layer_record('slow', '2026-01-02T00:00:00', 0.5, torch_run_s=0.25),
        a_layer_record('fast', '2026-01-02T00:00:00', 0.25),
    ]
    heads, *rows = layers.table_rows(records)
    assert [row[2] for row in rows] == ['slow', 'fast']
    assert rows[0][3:9] == ('2', '500', '50%', '1', '250', '2.00')
    assert rows[1][7:9] == ('', '')
    facts = {'network': 'N', 'kind': 'step', 'flop': 4e9, 'least_bytes': 1e6, 'floor_s': 0.25,
             'peak_flop_s': 2e10, 'lowered_flop': 3e9, 'compiled_flop': None,
             'compiled_bytes': 5e6, 'program_bytes': 2**21}  # fmt: skip
    record = {**RUN, 'benchmark': 'roofline', 'case': 'N, step', 'shape': [1, 8, 8, 1]}
    record |= {'facts': facts, 'compile_s': 1.0}
    heads, row = roofline.table_rows([record])
    found = dict(zip(heads, row, strict=True))
    assert found['share of the floor'] == '50%'
    assert found['share of products'] == '40%'
    assert found['bound by'] == 'memory'
    assert found['lowered · compiled'] == '3 · ?'
    for name in ('roofline', 'layers', 'device peaks'):
        table = report.TABLES[name]([*records, record, a_peak('copy', 1.0)])
        assert len(table.splitlines()) >= 3


@pytest.mark.parametrize('name', network_layers.NETWORKS)
def test_small_networks_are_alike_but_smaller(name):
    smoke, full = (network_layers.make_network(name, size) for size in ('smoke', 'full'))
    assert type(smoke.model) is type(full.model)
    assert dataclasses.replace(smoke, title=full.title).title == smoke.title
    assert all(np.prod(smoke.shapes[k]) < np.prod(full.shapes[k]) for k in network_layers.KINDS)
