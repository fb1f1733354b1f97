"""What several test files share: scripts as modules, a plug-in, and small training runs and their monitors."""

import importlib.util
from pathlib import Path

import torch
from torch import nn

from ztsnr.config.registry import build, compose, conf_folder
from ztsnr.tracking.monitor import Monitor

ROOT = Path(__file__).parent.parent
GROUPS = sorted(
    str(folder.relative_to(conf_folder())) for folder in conf_folder().rglob("*") if any(folder.glob("*.yaml"))
)
PARTS = ("objective", "data", "optimizer", "lr_schedule", "validation", "samples")
SMALL = ("trainer.steps=4", "trainer.batch_size=16", "model.width=16", "model.depth=1", "samples.steps=2")
SMALL += ("samples.columns=1", "validation.samples=16", "validation.sigmas=[0.5,5.0]", "lr_schedule.warmup=0")


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


PLUG_IN = """
from dataclasses import dataclass

from ztsnr.core.noise import snr
from ztsnr.core.target import Target
from ztsnr.core.weighting import Weighting


@dataclass(frozen=True, kw_only=True)
class MyMinSNR(Weighting):
    base: Target
    gamma: float

    def weight(self, sigma):
        return self.gamma / (1 + self.gamma / snr(sigma))
"""
PLUG_IN_YAML = """
defaults:
  - /target@base: x0

_target_: my_plug_in.MyMinSNR
gamma: 5.0
"""


def write_plug_in(folder: Path) -> Path:
    (folder / "my_plug_in.py").write_text(PLUG_IN)
    (folder / "my_conf" / "weighting").mkdir(parents=True)
    (folder / "my_conf" / "weighting" / "my_min_snr.yaml").write_text(PLUG_IN_YAML)
    return folder / "my_conf"


def fit(*overrides, monitor=None, data=None):
    composed = compose(*SMALL, *overrides)
    parts = {name: build(composed, name) for name in PARTS}
    if data is not None:
        parts["data"] = data(parts["data"])
    torch.manual_seed(composed.seed)
    network = build(composed, "model")
    return build(composed, "trainer").fit(**parts, network=network, monitor=monitor or Monitor())


def weights(trained, name="raw"):
    return torch.cat([value.flatten() for value in trained.networks[name].state_dict().values()])


class RecordingMonitor(Monitor):
    def __init__(self):
        self.losses, self.scores, self.images = [], {}, []

    def stepped(self, step, loss, norm, lr):
        self.losses.append((step, loss, norm, lr))

    def validated(self, step, errors, score):
        self.scores[step] = (score, errors)

    def sampled(self, step, images):
        self.images.append((step, sorted(images)))


class Killed(Exception):
    pass


class KillingMonitor(Monitor):
    """Ends the run once after each of these steps, or after these validations."""

    def __init__(self, steps=(), validations=()):
        self.steps, self.validations, self.losses = set(steps), set(validations), {}

    def stepped(self, step, loss, norm, lr):
        self.losses[step] = (loss, norm, lr)
        if step in self.steps:
            self.steps.remove(step)
            raise Killed

    def validated(self, step, errors, score):
        if step in self.validations:
            self.validations.remove(step)
            raise Killed


def tensors(trained):
    networks = trained.networks | {"learned": trained.learned}
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


def assert_same(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


class ConstantOutput(nn.Module):
    """A network with the same output for every input, which records its calls."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))
        self.calls = []

    def forward(self, z, t, label):
        self.calls.append((z, t, label))
        return self.value.expand_as(z)
