"""Kernels: pure, compiled, for 2-D and 3-D alike; import from the modules by name."""

from sxt_jax.ops.optical_flow import farneback, warp

__all__ = ['farneback', 'warp']
