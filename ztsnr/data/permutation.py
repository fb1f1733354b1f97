"""A pseudorandom permutation of any size that needs no list."""

import numpy as np
import torch

from ztsnr.core.randomness import generator


def permuted(seed: int, stream: str, epoch: int, positions: np.ndarray, size: int) -> np.ndarray:
    """The items in [0, size) at these positions of a shuffled epoch, (len(positions),) int64.

    A Feistel network of six rounds permutes the next even power of two; values outside [0, size) go through it again
    until they are inside (cycle walking; Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    bits = max(1, -(-(size - 1).bit_length() // 2))
    low = np.uint64(2**bits - 1)
    shift = np.uint64(bits)
    keys = torch.randint(2**62, (6,), generator=generator(seed, stream, epoch)).numpy().astype(np.uint64)

    def walk(value: np.ndarray) -> np.ndarray:
        left = value >> shift
        right = value & low
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return left << shift | right

    value = walk(np.asarray(positions, dtype=np.uint64))
    while (outside := value >= size).any():
        value[outside] = walk(value[outside])
    return value.astype(np.int64)


def _mixed(value: np.ndarray) -> np.ndarray:
    """MurmurHash3's finalizer of a uint64: changing one bit changes about half of all bits."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> np.uint64(33)) * np.uint64(factor)
    return value ^ value >> np.uint64(33)
