"""Kernels: pure, compiled, for 2-D and 3-D alike; import from the modules by name."""
