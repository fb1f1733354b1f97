import pytest
import torch

from ztsnr.models.embedding import sinusoids
from ztsnr.models.mlp import MLP
from ztsnr.models.unet import UNet


def make(kind, size=8, **settings):
    torch.manual_seed(0)
    shared_settings = {"shape": [1, size, size], "classes": 10, "gradient_checkpointing": False}
    class_settings = {MLP: {"width": 32, "depth": 2}, UNet: {"channels": [8, 16], "layers": 1}}[kind]
    net = kind(**shared_settings | class_settings | settings)
    for parameter in net.parameters():  # networks start with zeros here and there
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net


def inputs(size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, size, size, generator=generator), torch.tensor([0.0, 1, 500, 999]), torch.arange(4)


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("kind", [MLP, UNet])
def test_output_is_like_z_and_depends_on_z_t_and_label(kind, size):
    net = make(kind, size).eval()
    z, t, label = inputs(size)
    output = net(z, t, label=label)
    assert output.shape == z.shape
    for other_output in (net(z + 1, t, label=label), net(z, t + 9, label=label), net(z, t, label=label + 1)):
        assert not torch.allclose(other_output, output, atol=1e-4)
    assert net(z, t, label=torch.full((4,), 10)).isfinite().all()


@pytest.mark.parametrize("kind", [MLP, UNet])
def test_gradient_checkpointing_changes_no_gradient(kind):
    gradients = []
    for checkpointing in (False, True):
        net = make(kind, gradient_checkpointing=checkpointing).train()
        z, t, label = inputs()
        net(z, t, label=label).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in net.parameters()]))
    torch.testing.assert_close(*gradients)


def test_mlp_starts_with_identity_blocks():
    net = MLP(shape=[1, 8, 8], classes=10, width=32, depth=3, gradient_checkpointing=False)
    z, t, label = inputs()
    assert torch.equal(net(z, t, label), net.leave(net.enter(z.flatten(1))).reshape(z.shape))


def test_sinusoids_have_unit_norm_per_frequency_and_differ_between_timesteps():
    table = sinusoids(torch.arange(1000.0), 64)
    torch.testing.assert_close(table[:, :32] ** 2 + table[:, 32:] ** 2, torch.ones(1000, 32))
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 0.01
