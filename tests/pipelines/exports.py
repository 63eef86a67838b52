"""A process in which this package cannot be imported."""

# Put before a program: importing what it must do without fails from there on.
WITHOUT_THE_PACKAGE = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('sxt_jax', 'flax', 'optax', 'orbax', 'absl'):
            raise ImportError(f'{name} is blocked')


sys.meta_path.insert(0, Blocker())
"""
