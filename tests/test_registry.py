"""conf/ and the classes it names hold each other to account."""

import inspect
import re
from dataclasses import replace
from itertools import zip_longest

import pytest
from hydra._internal.utils import _locate
from omegaconf import OmegaConf, open_dict

from tests.helpers import GROUPS, write_plug_in
from tests.tiny import tiny_sd15, tiny_sdxl
from ztsnr.config.registry import build, build_from_file, compose, known_targets, make, options
from ztsnr.core.distance import Distance, Threshold
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.sampling import Sampler
from ztsnr.core.schedule import Density, Grid, SigmaTable, TimestepMap
from ztsnr.core.target import EDM, X0, Target, V
from ztsnr.core.weighting import MinSNR, Unit, Weighting
from ztsnr.evaluation.features import Features
from ztsnr.models.trainable import TrainableSelection
from ztsnr.tracking.tracker import Tracker
from ztsnr.training.lr_schedule import LRSchedule

SENTENCES = ("loss", "experiments")  # options that choose other groups' options
TOGETHER = ("optimizer", "lr_schedule", "weighting", "distance", "target", "sampler", "trainer", "tracking")
TOGETHER += ("schedule/density", "schedule/grid", "schedule/timesteps")  # one option of each is composed at once
FOLDER = ["data.root=photos", "data.pretrained=sdxl"]
NEEDS = {
    ("weighting", "importance"): lambda: ["schedule=laplace"],  # a density without atoms
    ("schedule/density", "infonoise"): list,  # it refers to the weighting
    ("schedule/density", "infonoise_terminal"): list,
    ("model", "sdxl"): lambda: [f"model.pretrained={tiny_sdxl()}"],
    ("data", "folder"): lambda: FOLDER,
    ("data", "webdataset"): lambda: FOLDER,
    ("data/sizes", "auto"): lambda: ["data=folder", *FOLDER],
    ("data/sizes", "sdxl"): lambda: ["data=folder", *FOLDER],
    ("model", "sd15"): lambda: [f"model.pretrained={tiny_sd15()}"],
    ("samples", "prompts"): lambda: ["model=sdxl", "model.pretrained=x", f"samples.file={__file__}"],
    ("model/train", "full"): lambda: ["model=sdxl", "model.pretrained=x"],
    ("model/train", "lora"): lambda: ["model=sdxl", "model.pretrained=x"],
    ("model/train_text", "full"): lambda: ["model=sdxl", "model.pretrained=x"],
    ("model/train_text", "lora"): lambda: ["model=sdxl", "model.pretrained=x"],
}
NEEDS |= {("quality/features", name): lambda: ["quality.features.path=."] for name in ("dinov2", "clip", "torchscript")}
MIN_SNR = MinSNR(base=X0(), gamma=5.0, offset=0.0, floor=0.0)
COLUMNS = [[(group, option) for option in options(group) if (group, option) not in NEEDS] for group in TOGETHER]
CHOICES = [[choice for choice in row if choice] for row in zip_longest(*COLUMNS)]
CHOICES += [[choice] for choice in NEEDS if choice[0] in TOGETHER]
CHOICES += [[(group, option)] for group in GROUPS if group not in (*TOGETHER, *SENTENCES) for option in options(group)]
CHOICES.remove([("model/train_text", "none")])  # which is null


def nodes_in(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from nodes_in(value)


@pytest.mark.parametrize("choices", CHOICES, ids=lambda choices: "-".join(option for _, option in choices))
def test_every_option_instantiates_and_its_keys_are_its_signature(choices):
    composed = compose(*(f"{group}={option}" for group, option in choices), *NEEDS.get(choices[0], list)())
    for group, _ in choices:
        chosen = OmegaConf.select(composed, group.replace("/", "."))
        build(chosen)
        for node in nodes_in(OmegaConf.to_container(chosen)):
            keys = {key for key in node if not key.startswith("_")}
            parameters = inspect.signature(_locate(node["_target_"])).parameters
            assert keys <= parameters.keys()
            if node["_target_"].startswith("ztsnr."):
                assert keys == parameters.keys()
                assert all(p.default is p.empty for p in parameters.values()), "YAML owns every value"


def concrete(base):
    for cls in base.__subclasses__():
        if cls.__module__.startswith("ztsnr."):
            yield from concrete(cls) if cls.__subclasses__() else [cls]


@pytest.mark.parametrize(
    "base",
    [
        SigmaTable,
        Density,
        Grid,
        TimestepMap,
        Target,
        Weighting,
        Distance,
        Threshold,
        Sampler,
        LRSchedule,
        Tracker,
        Features,
        TrainableSelection,
    ],
)
def test_conf_offers_every_concrete_class(base):
    offered = {target.rsplit(".", 1)[-1] for target in known_targets()}
    names = {cls.__name__ for cls in concrete(base)}
    assert names
    assert names <= offered


@pytest.mark.parametrize(
    ("words", "target", "weighting"),
    [
        (["loss=x0"], X0(), Unit(base=X0())),
        (["loss=edm"], EDM(sigma_data=0.5), Unit(base=EDM(sigma_data=0.5))),
        (["loss=novelai_v3"], V(), MIN_SNR),
        (["loss=novelai_v3", "target=x0"], X0(), MIN_SNR),
        (["weighting=min_snr", "loss=vpred"], V(), MIN_SNR),
    ],
)
def test_a_loss_chooses_target_and_weighting_and_the_command_line_wins_over_it(words, target, weighting):
    objective = build(compose(*words).objective)
    assert (objective.target, objective.weighting) == (target, weighting)


def test_the_default_schedule_samples_from_infinity_to_the_lowest_level_of_sdxl():
    schedule = make("schedule", "ztsnr")
    assert schedule.table.sigmas[0].item() == pytest.approx(0.029167, abs=1e-6)
    assert schedule.sigma_max == float("inf")
    assert schedule.grid.sigmas(10)[:2].tolist() == [float("inf"), pytest.approx(17.8)]
    stand_in = build(compose("schedule.table.terminal=20000").schedule)
    assert stand_in.grid.start == stand_in.density.highest == 20000


def test_make_replaces_fields_and_refuses_an_unknown_one():
    assert make("weighting", "min_snr", gamma=3.0) == replace(MIN_SNR, gamma=3.0)
    with pytest.raises(ConfigError, match="no 'gama'; it has base, gamma"):
        make("weighting", "min_snr", gama=3.0)


def test_a_user_adds_an_option_by_a_class_and_a_yaml(tmp_path, monkeypatch):
    folder = write_plug_in(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "my_min_snr" in options("weighting", config_dir=folder)
    objective = build(compose("weighting=my_min_snr", config_dir=folder).objective)
    assert type(objective.weighting).__name__ == "MyMinSNR"
    assert "my_min_snr" not in options("weighting")


def test_a_file_that_names_a_class_outside_conf_is_refused(tmp_path):
    known = {"_target_": "ztsnr.core.weighting.Unit", "base": {"_target_": "ztsnr.core.target.V"}}
    assert build_from_file(known, tmp_path) == Unit(base=V())
    for foreign in ("os.getcwd", "ztsnr.config.registry.conf_folder", "builtins.print"):
        with pytest.raises(CheckpointError, match=f"names the class '{foreign}'"):
            build_from_file(known | {"base": {"_target_": foreign}}, tmp_path)
    with pytest.raises(CheckpointError, match="must be resolved"):
        build_from_file({"_target_": "ztsnr.core.target.EDM", "sigma_data": "${oc.env:HOME}"}, tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+trainer.clip=1.0", "trainer.clip is now trainer.max_grad_norm"),
        ("+trainer.stesp=3", "There is no key 'trainer.stesp'. Did you mean trainer.steps?"),
        ("+target.gamma=3", "There is no key 'target.gamma'. This option has no keys."),
    ],
)
def test_a_key_that_its_class_does_not_have_is_refused_by_name_wherever_it_was_written(override, message):
    composed = compose()  # compose() refuses some of them itself: a user's own YAML gives what it does not see
    key, _, value = override.lstrip("+").partition("=")
    with open_dict(composed):
        OmegaConf.update(composed, key, value)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        build(composed, key.split(".")[0])
