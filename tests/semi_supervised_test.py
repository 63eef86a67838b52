"""The experiment of benchmarks/semi_supervised.py: its configs, scores and summary."""

import dataclasses

import numpy as np
import pytest

from benchmarks import semi_supervised
from benchmarks.semi_supervised import KINDS, SIZES, make_config, score, summarise, table_rows
from sxt_jax.core.volume import Volume
from sxt_jax.io import read_volume
from sxt_jax.pipelines.check_config import check_config


def test_both_kinds_see_labels_as_often(tmp_path):
    for size in SIZES.values():
        semi, alone = (make_config(tmp_path, kind, 3, size) for kind in KINDS)
        for config in (semi, alone):
            check_config(config)
        assert alone.model.heads == ('label',)
        alone.model.heads = semi.model.heads
        assert semi == alone
        assert max(size.labelled) < size.shape[0]


def test_precision_and_recall_are_of_the_voxels_above_a_threshold():
    label = np.array([-1.0, -0.5, 0.2, 0.3, 0.95, 0.99])
    truth = np.array([False, True, False, True, True, True])
    found = score(label, truth)
    assert found['precision'] == 3 / 4
    assert found['recall'] == 3 / 4
    assert found['dice'] == 3 / 4
    assert (found['precision_at_0.9'], found['recall_at_0.9']) == (1, 1 / 2)
    assert found['average_precision'] == pytest.approx((1 + 1 + 1 + 4 / 5) / 4)
    assert found['precision_at_recall_0.3'] == 1  # 0.3 of four is the highest
    assert score(label - 2, truth)['precision'] == 0


def test_the_summary_compares_seed_by_seed():
    rows = []
    for seed, (semi, alone) in enumerate(((0.8, 0.5), (0.9, 0.6), (0.7, 0.7))):
        for kind, precision in zip(KINDS, (semi, alone), strict=True):
            row = dict.fromkeys(score(np.ones(1), np.ones(1, bool)), precision)
            rows.append({'kind': kind, 'seed': seed, **row})
    found = summarise(rows)
    assert found['semi-supervised']['precision'] == pytest.approx({'mean': 0.8, 'sd': 0.1})
    compared = found['compared']['precision']
    assert compared['gain'] == pytest.approx(0.8 / 0.6 - 1)
    assert compared['better'] == 2
    heading, semi, _, gain = table_rows(
        [{'benchmark': 'semi_supervised', 'size': 'small', 'seeds': 3, **found}]
    )
    assert heading[2] == 'precision'
    assert semi[:3] == ('small', 'semi-supervised', '0.800 ± 0.100')
    assert gain[2].startswith('+33% (2 of 3')


def test_only_some_slices_of_one_tomogram_are_labelled(tmp_path, monkeypatch):
    size = dataclasses.replace(SIZES['smoke'], shape=(6, 8, 8), labelled=(1, 4))
    made = []

    def tomogram(seed, size, **conditions):
        made.append((seed, tuple(conditions.items())))
        image = np.random.default_rng(seed).random(size.shape)
        return Volume(image), Volume(np.ones(size.shape, np.uint8))

    monkeypatch.setattr(semi_supervised, 'make_tomogram', tomogram)
    semi_supervised.make_data(tmp_path, 2, size)
    labels = read_volume(tmp_path / 'train' / 'a.labels.tif').data
    np.testing.assert_array_equal(labels.any((1, 2)), [0, 1, 0, 0, 1, 0])
    assert len(list((tmp_path / 'unlabelled').iterdir())) == len(semi_supervised.UNLABELLED)
    assert len({seed for seed, _ in made}) == len({conditions for _, conditions in made}) == 11
    assert sorted(p.name for p in (tmp_path / 'truth').iterdir()) == [
        '0.tif',
        '1.tif',
        '2.tif',
        '3.tif',
    ]
    semi_supervised.make_data(tmp_path, 2, size)
    assert len(made) == 11  # what is there is not made again
