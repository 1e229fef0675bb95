#!/usr/bin/env python3
"""The digests that tests/check/test_numpy.c expects, from NumPy itself: the sum of (2i + 1) times the bits of draw i,
modulo 2^64."""
import numpy as np

for seed in 0, 1, 7, 2**32 - 1:
    bits = np.random.default_rng(seed).standard_normal(2_000_000).view(np.uint64)
    place = 2 * np.arange(len(bits), dtype=np.uint64) + np.uint64(1)
    print(f"{{{seed}, UINT64_C({int((bits * place).sum(dtype=np.uint64)):#018x})}},")
