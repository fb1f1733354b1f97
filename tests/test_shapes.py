"""The shape checks of tests.shapes can fail."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from tests.shapes import checked_shapes
from ztsnr.core.distance import MSE
from ztsnr.core.objective import Objective
from ztsnr.core.target import V
from ztsnr.core.weighting import Unit


def test_checked_shapes_rejects_sigmas_of_a_different_batch_and_samples_of_a_different_shape():
    x0, sigma = torch.zeros(4, 3, 2), torch.ones(4, dtype=torch.float64)
    with checked_shapes():
        V().output(x0, x0, sigma)
        for arguments in ((x0, x0, sigma[:3]), (x0, x0[:, :2], sigma), (x0, x0, sigma[:, None])):
            with pytest.raises(BeartypeCallHintViolation):
                V().output(*arguments)


def test_checked_shapes_reaches_functions_that_other_modules_of_the_core_import(sdxl, make_schedule):
    objective = Objective(
        schedule=make_schedule(sdxl), target=V(), weighting=Unit(base=V()), distance=MSE(), normalise_weight=False
    )
    x0, u = torch.zeros(4, 3, 2), torch.full((4,), 0.5, dtype=torch.float64)
    with checked_shapes():
        objective.terms(lambda z, t: z, x0, x0, u, {})
        with pytest.raises(BeartypeCallHintViolation):
            objective.terms(lambda z, t: z[:, :1], x0, x0, u, {})
    objective.terms(lambda z, t: z[:, :1], x0, x0, u, {})  # broadcasts, unnoticed
