"""Triton kernels and their launchers. Names, shapes and formulas are those of `reference`.

Every launcher runs on CUDA tensors, and on CPU tensors under TRITON_INTERPRET=1 (tests).
"""
