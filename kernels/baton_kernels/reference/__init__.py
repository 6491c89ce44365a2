"""Plain torch versions of every op: what the kernels are tested against, and what CPUs run."""
