"""Grids of samples, and images of them."""

import pytest
import torch

from tests.helpers import ConstantOutput
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import ConfigError
from ztsnr.core.sampling import Euler
from ztsnr.evaluation.samples import SampleGrid, tile_images


@pytest.fixture(scope="module")
def run():
    composed = compose("loss=x0")
    return build(composed.objective), build(composed.data)


def grid(**settings):
    plain = {"sampler": Euler(), "steps": 3, "guidances": [1.0, 2.0], "rescale": 0.0, "columns": 4, "seed": 0}
    return SampleGrid(**plain | settings)


def test_sample_grid_columns_share_noise_and_guidance_adds_the_null_label(run):
    objective, data = run
    network = ConstantOutput(0)
    images = grid().sample(objective, network, data.shape, classes=torch.tensor([7, 3]), null_label=10, scale=1.0)
    assert images.shape == (8, 1, 8, 8)
    z, _, label = network.calls[0]
    assert label.tolist() == [7] * 4 + [3] * 4
    assert torch.equal(z[:4], z[4:])
    assert not torch.equal(z[0], z[1])
    assert torch.equal(images, torch.zeros_like(images))  # an x0 network that says 0
    guided = ConstantOutput(0)
    grid().sample(objective, guided, data.shape, classes=torch.tensor([7]), null_label=10, scale=2.0)
    assert guided.calls[0][2].tolist() == [7] * 4 + [10] * 4


def test_tiled_image_has_the_tiles_in_order():
    x0 = torch.stack([torch.full((1, 8, 8), value) for value in (-1.0, -0.2, 0.2, 1.0)])
    image = tile_images(x0, columns=2, tile=16, gap=2)
    assert image.size == (2 * 18 + 2, 2 * 18 + 2)
    centres = [image.getpixel((2 + 18 * column + 8, 2 + 18 * row + 8)) for row in (0, 1) for column in (0, 1)]
    assert centres == [0, 102, 153, 255]
    assert tile_images(x0.expand(4, 3, 8, 8), columns=4).mode == "RGB"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidances": []}, "guidances must be a list of numbers"),
        ({"guidances": [-1]}, "guidances must be a number of at least 0, got -1"),
        ({"rescale": 2}, "rescale must be a number of at least 0 and of at most 1, got 2"),
        ({"steps": 0}, "steps must be an integer of 1 or more, got 0"),
    ],
)
def test_sample_grid_with_a_value_out_of_bounds_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        grid(**settings)
