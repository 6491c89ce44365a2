"""Kernels for serving language models: Triton on CUDA, a plain torch reference on CPU.

An op has the same name in `ops` (kernel and launcher), `reference` and `bench`; callers use
`dispatch`, which picks by the device of the tensors.
"""
