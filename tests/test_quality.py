"""Sample quality against torchmetrics and scikit-learn, and the extractors on networks that the tests make."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from ztsnr.config.registry import build, compose, make
from ztsnr.core.errors import ConfigError
from ztsnr.evaluation.features import ClassifierFeatures, TorchScriptFeatures, TransformersFeatures, in_batches
from ztsnr.evaluation.quality import Quality, frechet_distance, precision_recall

SCALE = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def digits():
    return make("data", "digits")


def features(seed, count=200, size=6, shift=0.0):
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=source, dtype=torch.float64)
    return torch.randn(count, size, generator=source, dtype=torch.float64) @ mixing + shift


@pytest.mark.slow
def test_frechet_distance_equals_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Same(nn.Module):
        num_features = 6

        def forward(self, images):
            return images

    for real, generated in ((features(0), features(1)), (features(2, 50), features(2, 80, shift=1.0))):
        metric = FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(generated, real=False)
        assert frechet_distance(real, generated) == pytest.approx(metric.compute().item(), rel=1e-4)
    few = features(1, count=4)  # fewer images than features: singular covariances
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_equal_counts_over_scikit_learns_neighbours(neighbours):
    real, generated = features(0), features(1, 150, shift=0.5)

    def share(some, all_):
        radius = NearestNeighbors(n_neighbors=neighbours + 1).fit(all_).kneighbors(all_)[0][:, -1]
        inside = [any((all_[i] - point).norm() <= radius[i] for i in range(len(all_))) for point in some]
        return sum(inside) / len(inside)

    shares = precision_recall(real, generated, neighbours)
    assert shares == {
        "precision": pytest.approx(share(generated, real)),
        "recall": pytest.approx(share(real, generated)),
    }


@pytest.mark.slow
def test_classifier_is_trained_once_and_recognises_held_out_digits(digits):
    settings = {"features": 32, "steps": 150, "batch_size": 128, "lr": 0.003, "seed": 0}
    chosen = ClassifierFeatures(**settings)
    state = torch.get_rng_state()
    network = chosen.load(digits)
    assert torch.equal(state, torch.get_rng_state())
    held_out = digits.validation
    measured_features = torch.cat(list(in_batches(network, held_out.x0)))
    assert measured_features.shape == (len(held_out), 32)
    assert (network.classify(measured_features.float()).argmax(1) == held_out.label).double().mean() > 0.95
    again = chosen.load(make("data", "digits", seed=7))  # another run's order of the same images
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))
    other = ClassifierFeatures(**settings | {"steps": 1}).load(digits)
    assert not torch.equal(other.classify.weight, network.classify.weight)


@pytest.mark.slow
def test_quality_is_measured_at_each_guidance_scale(digits):
    few = {"samples": 40, "steps": 2, "batch_size": 16, "neighbourhood": 60, "guidances": [1.0, 2.0]}
    quality = make("quality", "frechet", **few)
    config = compose("model.width=16")
    objective, network = build(config.objective), build(config.model).eval()
    measured = quality(objective, network, digits)
    assert measured.keys() == {
        f"quality_{name}/guidance_{scale}"
        for name in ("frechet", "precision", "recall", "accuracy")
        for scale in ("01.00", "02.00")
    }
    images, label = quality.sample(objective, network, digits, 2.0)
    assert images.shape == (40, *digits.shape)
    assert label.tolist() == [i % 10 for i in range(40)]
    one_batch = make("quality", "frechet", **few | {"batch_size": 40}).sample(objective, network, digits, 2.0)[0]
    torch.testing.assert_close(images, one_batch)
    assert make("quality", "none")(objective, network, digits) == {}


@pytest.mark.slow
def test_transformers_folder_extracts_one_feature_vector_per_image(digits, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    for config, network in ((Dinov2Config, Dinov2Model), (CLIPVisionConfig, CLIPVisionModel)):
        folder = tmp_path / network.__name__
        network(config(**small, intermediate_size=48)).save_pretrained(folder)
        extractor = TransformersFeatures(path=str(folder), size=28, **SCALE).load(digits)
        measured_features = extractor(digits.validation.x0[:5])
        assert measured_features.shape == (5, 24)
        assert measured_features.isfinite().all()
        assert extractor.classify is None


def test_torchscript_network_receives_images_in_its_size_and_scale(digits, tmp_path):
    file = tmp_path / "mean.pt"
    torch.jit.script(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())).save(file)
    extractor = TorchScriptFeatures(path=str(file), size=20, mean=[0.0, 0.5, 0.0], std=[1.0, 0.5, 2.0]).load(digits)
    grey = extractor(torch.zeros(2, 1, 8, 8))  # half bright
    torch.testing.assert_close(grey, torch.tensor([[0.5, 0.0, 0.25]] * 2))


def test_absent_or_broken_feature_weights_are_refused(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"path must be the path of the weights, but .*absent\.pt. does not exist"):
        TorchScriptFeatures(path=str(tmp_path / "absent.pt"), size=8, **SCALE)
    (tmp_path / "broken.pt").write_text("no weights")
    with pytest.raises(ConfigError, match=r"broken\.pt cannot be loaded"):
        TorchScriptFeatures(path=str(tmp_path / "broken.pt"), size=8, **SCALE).load(digits)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TransformersFeatures(path=str(tmp_path), size=8, **SCALE).load(digits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 3}, "samples must be an integer of 4 or more, got 3"),
        ({"guidances": []}, "guidances must be a list of numbers"),
        ({"features": "inception"}, "To choose an option: features=inception"),
    ],
)
def test_quality_with_few_samples_no_guidance_or_unknown_features_is_refused(settings, message):
    node = {"sampler": make("sampler", "euler"), "features": make("quality/features", "classifier")}
    node |= {
        "steps": 2,
        "guidances": [1.0],
        "samples": 9,
        "batch_size": 3,
        "neighbours": 3,
        "neighbourhood": 9,
        "seed": 0,
    }
    with pytest.raises(ConfigError, match=message):
        Quality(**node | settings)
