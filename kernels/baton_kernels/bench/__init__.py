"""Speed of each op: `python -m baton_kernels.bench.NAME` prints microseconds and GB/s.

GB/s counts the bytes that the op must move, so on a GPU it can be held against the memory's
bandwidth. On CPU only the reference is timed; on CUDA the kernel beside it.
"""
