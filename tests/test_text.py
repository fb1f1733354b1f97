"""Trained text encoders, fully or by a LoRA, from tokens, with previews and exports of the trained weights."""

from copy import deepcopy

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from tests.tiny import (
    WORDS,
    Latents,
    V,
    composed_for,
    exported,
    inputs,
    latents_of_pipeline,
    make,
    tiny_sd15,
    tiny_sdxl,
    trained_names,
)
from ztsnr.checkpoints.load import without_lora_start
from ztsnr.config.registry import build, compose
from ztsnr.core.errors import CheckpointError, ConfigError
from ztsnr.core.sampling import Euler, Guidance, guided_denoise
from ztsnr.models.pretrained import find_source
from ztsnr.models.text import Tokenizers, load_text_encoders
from ztsnr.tracking.monitor import Monitor

BOTH = ("model/train=lora", "model.train.rank=3", "model/train_text=lora", "model.train_text.rank=2")


def tokens(prompts, windows=1, folder=None):
    return Tokenizers(find_source(folder or tiny_sdxl())).tokens(prompts, windows)


@pytest.mark.parametrize("model", ["sdxl", "sd15"])
def test_tokens_and_their_embeddings_give_the_same_output(model):
    folder = tiny_sdxl() if model == "sdxl" else tiny_sd15()
    net = make("model/train_text=full", model=model, pretrained=folder).eval().requires_grad_(False)
    z, t, cond = inputs()
    prompts = ["a red house", "a blue ship " * 9]
    embeddings = load_text_encoders(folder).encode(prompts, 2)
    expected = net(z, t, time_ids=cond["time_ids"], **embeddings)
    torch.testing.assert_close(net(z, t, time_ids=cond["time_ids"], tokens=tokens(prompts, 2, folder)), expected)


class Tokens(Latents):
    def __post_init__(self):
        super().__post_init__()
        prompts = [WORDS[i % len(WORDS)] for i in range(self.count)]
        self.cond = {"tokens": tokens(prompts), "time_ids": self.cond["time_ids"]}


def fit(file, *overrides):
    composed = composed_for(file, "samples.columns=1", *overrides)
    names = ("objective", "optimizer", "lr_schedule", "samples", "validation")
    torch.manual_seed(0)
    parts, network = {name: build(composed[name]) for name in names}, build(composed.model)
    return build(composed.trainer).fit(**parts, data=Tokens(), network=network, monitor=Monitor()), composed


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a red house\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("train", [("model/train_text=full",), BOTH], ids=["full", "lora"])
def test_training_text_encoders_changes_what_the_gradient_reaches_and_previews(file, train):
    trained, composed = fit(file, *train, "trainer.groups.lr=[[text_encoders,0.5]]")
    network = trained.networks["raw"]
    torch.manual_seed(0)
    before = dict(build(composed.model).named_parameters())
    changed = {name for name, p in network.named_parameters() if p.numel() > 1 and not torch.equal(p, before[name])}
    assert changed == {name for name in trained_names(network) if before[name].numel() > 1}
    assert {name.split(".")[2] for name in changed if "text_" in name} == {"text_encoder", "text_encoder_2"}
    assert not any("text_encoder.encoder.layers.2" in name or "text_encoder.final" in name for name in changed)
    trained_text, pretrained_text = (
        build(composed.samples).embeddings(net)["a red house"]["text"] for net in (network, torch.nn.Module())
    )
    assert not torch.allclose(trained_text, pretrained_text, atol=1e-6)


@pytest.mark.slow
def test_lora_of_all_three_networks_loads_in_diffusers_and_in_training(tmp_path):
    export = exported(*V, *BOTH)
    encoders, prompt = export.network.text_encoders, "a red house"
    ids = torch.tensor([[128.0, 128, 0, 0, 128, 128]])
    cond, negative = ({**encoders.encode([words]), "time_ids": ids} for words in (prompt, ""))
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    denoise = guided_denoise(export.objective, export.network, cond, negative, Guidance(scale=3.0, rescale=0.0))
    with torch.no_grad():
        expected = Euler()(denoise, z, export.objective.schedule.grid.sigmas(4))
    base = exported(*V)
    base.write_diffusers(tmp_path / "base")
    for format in ("lora_kohya", "lora_peft"):
        path = tmp_path / f"{format}.safetensors"
        export.write(format, path)
        pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "base")
        pipeline.unet.load_state_dict(make().unet.state_dict())
        pipeline.load_lora_weights(str(path))
        torch.testing.assert_close(latents_of_pipeline(pipeline, prompt, 128, 3.0), expected, rtol=1e-3, atol=5e-4)
        starts = [f"model.train.start={path}", f"model.train_text.start={path}"]
        again = make(*BOTH, *starts).state_dict()
        assert again.keys() == export.network.state_dict().keys()
        for key, value in export.network.state_dict().items():
            torch.testing.assert_close(again[key], value)
        with pytest.raises(CheckpointError, match=r"updates a text encoder too, so use model/train_text=lora"):
            make(*BOTH[:2], starts[0])
        with pytest.raises(CheckpointError, match=r"updates the U-Net too, so use model/train=lora"):
            make(*BOTH[2:], starts[1])


@pytest.mark.slow
@pytest.mark.parametrize("train", [("model/train_text=full",), BOTH], ids=["full", "lora"])
def test_exported_model_has_the_trained_text_encoders(tmp_path, train):
    export = deepcopy(exported(*V, *train))  # merging changes it
    with torch.no_grad():
        embeddings = export.network.text_encoders.encode(["a red house", "a ship"])
    export.write_diffusers(tmp_path / "model")
    export.write_single_file(tmp_path / "model.safetensors")
    again = load_text_encoders(str(tmp_path / "model")).encode(["a red house", "a ship"])
    for name, value in again.items():
        torch.testing.assert_close(value, embeddings[name], rtol=1e-4, atol=1e-5)
    key = "conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    trained = export.merged_parts["text_encoder"].encoder.layers[0].self_attn.q_proj.weight
    assert torch.equal(load_file(tmp_path / "model.safetensors")[key], trained)


@pytest.mark.slow
def test_data_folder_gives_tokens_where_encoders_are_trained(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (64, 64), (30 * number, 90, 20)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.txt").write_text(f"image {number}")
    settings = [f"data.root={tmp_path / 'images'}", f"data.cache={tmp_path / 'cache'}", "data.sizes.resolution=64"]
    settings += ["trainer.batch_size=4", "data.held_out=0.3", "data.caption_dropout=0", "data=folder", "model=sdxl"]
    settings += [f"model.pretrained={tiny_sdxl()}"]
    trained = build(compose(*settings, "model/train_text=lora"), "data")
    frozen = build(compose(*settings, "model/train_text=none"), "data")
    trained.prepare()
    frozen.prepare()
    x0, cond = trained.batch(0, range(4), 4)
    same, embedded = frozen.batch(0, range(4), 4)
    assert torch.equal(x0, same)
    assert cond.keys() == {"tokens", "time_ids"}
    known = {tuple(tokens([f"image {n}"]).flatten().tolist()) for n in range(8)}
    assert {tuple(row.flatten().tolist()) for row in cond["tokens"]} <= known
    encoders = load_text_encoders(tiny_sdxl())
    with torch.no_grad():
        torch.testing.assert_close(encoders(cond["tokens"])["text"].half().float(), embedded["text"])
    assert trained.index_name != frozen.index_name


def test_config_of_a_trained_lora_has_no_start_file():
    words = ["model.train.start=a", "model.train_text.start=b", "model.train_text.base=4bit"]
    model = OmegaConf.to_container(compose("model=sdxl", "model.pretrained=x", *BOTH, *words).model)
    for base, text in ((None, "4bit"), ("float32", "float32")):
        initial = without_lora_start(model, base)
        assert initial["train"] == model["train"] | {"start": None}
        assert initial["train_text"] == model["train_text"] | {"start": None, "base": text}
    frozen = {"train": {"patterns": ["*"]}, "train_text": None}
    assert without_lora_start(frozen, "float32") == frozen


def test_train_text_with_a_wrong_rank_pattern_or_start_is_refused_with_the_key():
    for words, message in (
        (["model/train_text=lora", "model.train_text.rank=0"], r"model\.train_text\.rank must be an integer"),
        (["model/train_text=full", "model.train_text.patterns=[x]"], r"model\.train_text\.patterns has 'x'"),
        (["model/train_text=lora", "model.train_text.start=absent"], r"model\.train_text\.start=absent is not a file"),
        (["model.train_text=3"], r"model\.train_text must be a TrainableSelection"),
    ):
        with pytest.raises((ConfigError, CheckpointError), match=message):
            make(*words)
