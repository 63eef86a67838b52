"""Volumes and tables from and to files; every format is turned to [z, y, x] here."""

from sxt_jax.io.files import (
    SUFFIXES,
    WRITABLE_SUFFIXES,
    is_volume,
    list_volumes,
    open_volume,
    open_writer,
    read_volume,
    split_dataset,
    with_dataset,
    write_volume,
)
from sxt_jax.io.flows import Flows, read_flows
from sxt_jax.io.materials import (
    MaterialFile,
    find_folder_file,
    find_material_file,
    read_material_file,
)
from sxt_jax.io.pairing import (
    Pair,
    Unpaired,
    find_pairs,
    find_pairs_below,
    holds_pairs,
    pair,
    without_labels,
)
from sxt_jax.io.tables import write_json, write_table
from sxt_jax.io.writer import VolumeWriter

__all__ = [
    'SUFFIXES',
    'WRITABLE_SUFFIXES',
    'Flows',
    'MaterialFile',
    'Pair',
    'Unpaired',
    'VolumeWriter',
    'find_folder_file',
    'find_material_file',
    'find_pairs',
    'find_pairs_below',
    'holds_pairs',
    'is_volume',
    'list_volumes',
    'open_volume',
    'open_writer',
    'pair',
    'read_flows',
    'read_material_file',
    'read_volume',
    'split_dataset',
    'with_dataset',
    'without_labels',
    'write_json',
    'write_table',
    'write_volume',
]
