"""Types of tensors by shape. They are plain tensors, except in tests of the core, which check shapes in every call.

PerSample: (B,) floating, one number for each sample of a batch.
Samples: (B, ...) floating, the samples themselves.
"""

import os
from typing import TYPE_CHECKING

from torch import Tensor

CHECKED = "ZTSNR_CHECK_SHAPES"
"""The environment variable that turns the checks on; they need jaxtyping, which only the tests have."""

if TYPE_CHECKING or CHECKED not in os.environ:
    PerSample = Tensor
    Samples = Tensor
else:
    from jaxtyping import Float

    PerSample = Float[Tensor, "batch"]
    Samples = Float[Tensor, "batch *sample"]
