"""From a folder of images to the batches of a training, with the tiny SDXL."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import load_script
from tests.photos import QUIET, SHAPES, image, make_data, make_photos, prepare_data
from tests.tiny import tiny_sdxl
from ztsnr.caching.decode import decode
from ztsnr.caching.latents import LatentEncoder
from ztsnr.caching.masks import MaskEncoder
from ztsnr.caching.prepare import inspect_images, plan_images
from ztsnr.caching.texts import TextEncoder
from ztsnr.core.errors import BadImage, CacheError, ConfigError
from ztsnr.core.randomness import normal
from ztsnr.data.scale import to_latents
from ztsnr.models.pretrained import find_source, load_vae
from ztsnr.models.text import load_text_encoders

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder of photos and its filled cache, which tests must leave as they are."""
    folder = tmp_path_factory.mktemp("data")
    root = make_photos(folder / "photos")
    assert len(prepare_data(root, folder / "cache").train) > 8
    return root, folder / "cache"


@pytest.fixture
def own(shared, tmp_path):
    """A copy of them."""
    root, cache = (shutil.copytree(folder, tmp_path / folder.name, copy_function=shutil.copy2) for folder in shared)
    return root, cache


@pytest.fixture
def encoded(monkeypatch):
    """Records what is encoded: latents by their images' names, and texts."""
    recorded = {"latents": [], "texts": []}
    latents, texts = LatentEncoder.encode, TextEncoder.encode

    def encode_latents(self, batch, upcoming):
        recorded["latents"] += [request.image.file.name for request in batch]
        return latents(self, batch, upcoming)

    def encode_texts(self, batch, upcoming):
        recorded["texts"] += [entry.text for entry in batch]
        return texts(self, batch, upcoming)

    monkeypatch.setattr(LatentEncoder, "encode", encode_latents)
    monkeypatch.setattr(TextEncoder, "encode", encode_texts)
    return recorded


def full_batch(data, step):
    size = data.size(step, data.batch_size)
    return data.batch(step, range(size), size)


def samples_of(data, steps):
    return [row for step in range(steps) for row in full_batch(data, step)[0]]


def test_batch_has_the_conditions_of_sdxl(shared):
    data = prepare_data(*shared)
    for step in range(4):
        x0, cond = full_batch(data, step)
        assert x0.shape[:2] == (2, 4)
        assert x0.dtype == cond["text"].dtype == torch.float32
        assert (cond["text"].shape[1:], cond["pooled"].shape[1:]) == ((77, 96), (64,))
        height, width = 8 * x0.shape[2], 8 * x0.shape[3]
        assert cond["time_ids"][:, 4:].tolist() == [[height, width]] * 2
        assert set(cond) == {"text", "pooled", "time_ids"}


def test_latents_texts_and_sizes_of_a_row_belong_to_one_image(shared):
    """Each is computed again from the image that the original size and the latent point to."""
    data = prepare_data(*shared, "data.encoding.kind=mean", "data.encoding.dtype=float32", "data.caption_dropout=0")
    vae, encoders = load_vae(tiny_sdxl()), load_text_encoders(tiny_sdxl())
    images = inspect_images(data, QUIET).images
    plan = plan_images(images, np.zeros(len(images), dtype=bool), data)
    known = {}
    for i, entry in enumerate(images):
        view = plan.view(i, entry.size, (0.5, 0.5), False)
        pixels = torch.tensor(decode(entry.file.read(), view, (255, 255, 255))).permute(2, 0, 1)[None]
        with torch.no_grad():
            latent = vae.encode(pixels / 127.5 - 1).latent_dist.mean[0] * vae.config.scaling_factor
        known[entry.file.captions[0]] = latent, [*entry.size, *view.crop, *view.size]
    texts = {caption: encoders.encode([caption]) for caption in known}
    for step in range(6):
        x0, cond = full_batch(data, step)
        for row in range(2):
            matching = [c for c in known if torch.allclose(texts[c]["text"][0], cond["text"][row], atol=1e-4)]
            assert len(matching) == 1
            latent, ids = known[matching[0]]
            torch.testing.assert_close(x0[row], latent, atol=1e-4, rtol=1e-4)
            assert cond["time_ids"][row].tolist() == ids
            torch.testing.assert_close(cond["pooled"][row], texts[matching[0]]["pooled"][0], atol=1e-4, rtol=1e-4)


def test_epoch_trains_every_sample_and_no_held_out_one(shared):
    data = prepare_data(*shared)
    trained_rows = {row.numpy().tobytes() for row in samples_of(data, 2 * len(data.train))}
    with torch.autocast("cpu", torch.bfloat16):  # as a run with precision=bf16 validates
        held_out_rows = {row.numpy().tobytes() for _, x0, _ in data.held_out_batches(100, 3) for row in x0}
    assert len(trained_rows) == len(data.train)
    assert len(trained_rows) + len(held_out_rows) == 16
    assert not trained_rows & held_out_rows


def test_one_of_few_images_is_held_out_if_none_falls_below_the_share(own):
    images = inspect_images(make_data(*own), QUIET).images
    fractions = [int.from_bytes(entry.digest[:8], "big") / 2**64 for entry in images]
    assert 0.5 / 16 < 0.05 < min(fractions)
    assert prepare_data(*own, "data.held_out=0.05").train.counts.sum(0).tolist() == [15, 1]


def test_rows_equal_those_of_the_whole_batch_and_of_another_process(shared):
    data, other = prepare_data(*shared), prepare_data(*shared, "data.refresh=false")
    x0, cond = full_batch(data, 5)
    part, part_cond = other.batch(5, range(1, 2), 2)
    assert torch.equal(part, x0[1:])
    assert all(torch.equal(part_cond[name], cond[name][1:]) for name in cond)


@pytest.mark.parametrize("override", ["data.refresh=true", "data.refresh=false"])
def test_data_cannot_be_read_before_prepare(shared, override):
    data = make_data(*shared, override)
    with pytest.raises(CacheError, match=r"is not prepared: call prepare\(\)"):
        len(data.train)
    data.prepare()
    assert len(data.train) > 8


def test_filled_cache_encodes_nothing_for_the_same_images(shared, encoded):
    prepare_data(*shared, "trainer.batch_size=3", "data.leftovers=repeat", "seed=5")
    assert encoded == {"latents": [], "texts": []}


def test_only_changed_and_new_images_and_captions_are_encoded(own, encoded):
    root, _ = own
    before = prepare_data(*own).train.facts
    image(77, (64, 64)).save(root / "000.png")
    (root / "001.txt").write_text("another caption")
    make_photos(root, 1, start=40)
    data = prepare_data(*own)
    assert len(data.train) + data.train.counts[:, 1].sum() == 17
    assert sorted(encoded["latents"]) == ["000.png", "040.png"]
    assert sorted(encoded["texts"]) == ["another caption", "image, number 40, small"]
    assert data.train.facts["mean"] != before["mean"]


@pytest.mark.parametrize(
    ("override", "latents", "texts"),
    [
        ("data.encoding.kind=mean", 16, 0),
        ("data.encoding.dtype=bfloat16", 16, 17),
        ("data.flip=true", 16, 0),
        ("data.background=[0,0,0]", 16, 0),
        ("data.text_windows=2", 0, 17),
        ("data.captions.prefix=my", 0, 16),
        ("data.caption_dropout=0.5", 0, 0),
        ("data.latent_normalisation=channel", 0, 0),
    ],
)
def test_changed_setting_encodes_only_what_depends_on_it(own, encoded, override, latents, texts):
    prepare_data(*own, override)
    assert (len(encoded["latents"]), len(encoded["texts"])) == (latents, texts)


def test_two_resolutions_share_a_cache_and_batches_depend_only_on_the_step(own, encoded):
    larger = "data.sizes.resolution=96"
    through = prepare_data(*own, larger)
    for step in range(6):
        last = full_batch(through, step)[0]
    assert (len(encoded["latents"]), encoded["texts"]) == (16, [])
    assert torch.equal(full_batch(prepare_data(*own, larger), 5)[0], last)  # as one that begins there has it
    assert len(prepare_data(*own).train)
    assert len(encoded["latents"]) == 16


def test_more_crops_encode_only_images_that_are_cropped(own, encoded):
    prepare_data(*own, "data.crops=3")
    square = {f"{number:03}.png" for number in range(16) if number % 6 in (0, 3)}
    assert encoded["latents"]
    assert not square & set(encoded["latents"])


def test_different_pretrained_weights_encode_everything_again(own, encoded, tmp_path):
    other = tmp_path / "other"
    load_script("make_tiny_sdxl").make_pipeline(seed=1).save_pretrained(other)
    prepare_data(*own, f"data.pretrained={other}")
    assert (len(encoded["latents"]), len(encoded["texts"])) == (16, 17)


def test_folder_options_repeat_and_weight_samples(own):
    root, _ = own
    make_photos(root / "few", 4, start=50)
    few = "data.folders=[{path: few, repeats: 3, weight: 0.5, trigger: sks}]"
    data = prepare_data(*own, few, "data.crops=3", "data.flip=true")
    index = data.train
    assert index.arrays["crop"].shape[1] == 6
    assert (index.arrays["weight"] == 0.5).sum() == 10  # three of the four images repeated, one held out
    weights = torch.cat([full_batch(data, step)[1]["weight"] for step in range(len(index) // 2)])
    assert set(weights.tolist()) == {0.5, 1.0}


def test_statistics_normalise_the_trained_latents_and_to_latents_inverts_them(shared):
    data = prepare_data(
        *shared, "data.latent_normalisation=channel", "data.encoding.kind=mean", "data.encoding.dtype=float32"
    )
    rows = {row.numpy().tobytes(): row for row in samples_of(data, 2 * len(data.train))}.values()
    flat = torch.cat([row.flatten(1) for row in rows], 1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.std(1, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    plain = prepare_data(*shared, "data.encoding.kind=mean", "data.encoding.dtype=float32")
    x0, latents = full_batch(data, 3)[0], full_batch(plain, 3)[0] / load_vae(tiny_sdxl()).config.scaling_factor
    torch.testing.assert_close(to_latents(x0, data.facts["latents"]), latents)
    torch.testing.assert_close(to_latents(full_batch(plain, 3)[0], plain.facts["latents"]), latents)
    assert plain.facts["latents"]["mean"] == [0.0] * 4
    scalar = prepare_data(
        *shared, "data.latent_normalisation=scalar", "data.encoding.kind=mean", "data.encoding.dtype=float32"
    )
    assert len(set(scalar.facts["latents"]["std"])) == 1
    state_facts = {
        "config": {"data": {"latent_normalisation": "channel", "pretrained": tiny_sdxl()}},
        "data": {"latents": {"mean": [1.0]}},
    }
    assert plain.with_statistics_from(state_facts) is plain
    assert scalar.with_statistics_from(state_facts) is scalar
    resumed = data.with_statistics_from(state_facts | {"data": scalar.facts})
    resumed.prepare()
    assert resumed.facts == scalar.facts


def test_distribution_is_resampled_in_each_step_and_its_mean_is_validated(shared):
    settings = "data.encoding.dtype=float32", "data.caption_dropout=0"
    data, mean = (prepare_data(*shared, f"data.encoding.kind={kind}", *settings) for kind in ("distribution", "mean"))
    steps = [step for step in range(60) if full_batch(mean, step)[0].shape == full_batch(mean, 0)[0].shape]
    gaps = torch.stack([full_batch(data, step)[0] - full_batch(mean, step)[0] for step in steps])
    assert gaps.std() > 1e-4
    assert not torch.equal(gaps[0], gaps[1])
    for (_, latents, _), (_, means, _) in zip(data.held_out_batches(9, 2), mean.held_out_batches(9, 2), strict=True):
        torch.testing.assert_close(latents, means)


def test_captions_are_dropped_at_the_configured_rate(shared):
    data = prepare_data(*shared, "data.caption_dropout=0.4")
    empty = load_text_encoders(tiny_sdxl()).encode([""])["pooled"].half().float()
    pooled = torch.cat([full_batch(data, step)[1]["pooled"] for step in range(100)])
    assert (pooled == empty).all(1).double().mean().item() == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize("leftovers", ["repeat", "partial", "drop"])
def test_batches_have_the_announced_sizes_for_each_policy_of_leftovers(shared, leftovers):
    data = prepare_data(*shared, f"data.leftovers={leftovers}", "trainer.batch_size=3", "data.max_aspect=1.2")
    sizes = data.batch_sizes(3)
    assert sizes == {3} if leftovers != "partial" else {3} < sizes
    assert {data.size(step, 3) for step in range(12)} <= sizes
    for step in range(12):
        assert len(full_batch(data, step)[0]) == data.size(step, 3)


def test_buckets_of_fewer_pixels_get_batches_in_multiples_of_batch_size_step(shared):
    sizes = "data.sizes.step=8", "data.sizes.resolution=56"
    data = prepare_data(*shared, "data.batch_size_step=1", "trainer.batch_size=16", *sizes, "data.leftovers=repeat")
    batches = {}
    for step in range(20):
        x0 = full_batch(data, step)[0]
        batches[tuple(x0.shape[2:])] = len(x0)
    areas = {size: size[0] * size[1] for size in batches}
    largest = max(areas.values())
    assert batches == {size: 16 * largest // area for size, area in areas.items()}
    assert len(set(batches.values())) > 1


def test_write_report_writes_the_plan_and_the_scale_of_the_latents(shared, tmp_path):
    plan, latents = prepare_data(*shared).write_report(tmp_path)
    assert "16 files, 16 images used" in plan.read_text()
    assert latents.read_text().count("7.67") == 4


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data.root=absent"], ConfigError, r"data\.root=absent is not a folder"),
        (["data.root=s3://bucket/cats"], ConfigError, r"data=webdataset data\.root='s3://bucket/cats/\*\.tar'"),
        (["data.held_out=1e-9"], ConfigError, r"data\.held_out=1e-09 leaves no validation image out of 16"),
        (["data.max_upscale=0.1"], ConfigError, "no image to train on: all are left out.*\n  000.png: too small"),
        (["data.leftovers=drop", "trainer.batch_size=99"], ConfigError, "No bucket fills a batch"),
        (["data.refresh=false", "data.crops=7"], CacheError, r"data\.refresh=true makes it"),
        (
            ["data.latent_normalisation=both"],
            ConfigError,
            r"data\.latent_normalisation must be one of channel, scalar, none",
        ),
        (["data.statistics={mean: [0], std: [1]}"], ConfigError, r"data\.latent_normalisation=channel or scalar"),
        (
            ["data.statistics={mean: [0]}", "data.latent_normalisation=scalar"],
            ConfigError,
            "must be a mean and a std of each",
        ),
        (["data.workers=-1"], ConfigError, r"data\.workers must be an integer of 0"),
        (["data.encoding.kind=x"], ConfigError, r"data\.encoding\.kind must be one of"),
        (["data.folders=[{repeats: 2}]"], ConfigError, r"data\.folders must be a list of entries"),
    ],
)
def test_prepare_refuses_unusable_settings_with_the_full_key(shared, overrides, error, message):
    with pytest.raises(error, match=message):
        prepare_data(*shared, *overrides)


def test_unreadable_image_stops_prepare_if_on_bad_is_stop(own):
    (own[0] / "bad.png").write_bytes(b"x")
    with pytest.raises(BadImage, match=r"bad\.png: it is not an image"):
        prepare_data(*own, "data.on_bad=stop")
    assert len(prepare_data(*own).train) > 8


def test_latents_that_overflow_in_bfloat16_are_encoded_in_float32(own, monkeypatch):
    posterior, retries = LatentEncoder.posterior, []

    def overflowing(self, x, precision):
        answer = posterior(self, x, precision)
        if precision == "bfloat16":
            answer[::2] = float("inf")
        else:
            retries.append(len(x))
        return answer

    expected = [row.clone() for row in samples_of(prepare_data(*own, "data.encoding.kind=mean"), 6)]
    monkeypatch.setattr(LatentEncoder, "posterior", overflowing)
    data = prepare_data(*own, "data.encoding.kind=mean", "data.encoding.precision=bfloat16")
    actual = samples_of(data, 6)
    assert sum(retries) >= 8
    assert max((a - b).abs().max() for a, b in zip(expected, actual, strict=True)) < 0.02


@torch.no_grad()
def test_large_image_is_encoded_in_overlapping_tiles(shared):
    """Of 128 pixels, one every 96; where two overlap they are blended."""

    def encode(x, tile):
        encoding = make_data(*shared, f"data.encoding.tile={tile}").encoding
        return LatentEncoder(find_source(tiny_sdxl()), encoding, (0, 0, 0), 1).posterior(x, "float32")

    x = normal(0, "pixels", 0, range(1), (3, 224, 224)).clamp(-1, 1)
    tiled, first, second = encode(x, 128), encode(x[..., :128, :128], "null"), encode(x[..., 96:, 96:], "null")
    assert tiled.shape[2:] == (28, 28)
    torch.testing.assert_close(tiled[..., :12, :12], first[..., :12, :12])
    torch.testing.assert_close(tiled[..., 16:24, 16:24], second[..., 4:12, 4:12])
    assert torch.equal(encode(x[..., :128, :128], 128), first)


def test_images_with_rare_tags_weigh_more(own):
    root, _ = own
    for number in range(12):
        (root / f"{number:03}.txt").write_text("common, everyday")
    for number in range(12, 16):
        (root / f"{number:03}.txt").write_text(f"rare {number}")
    data = prepare_data(*own, "data.rarity.strength=0.5", "data.rarity.high=4.0")
    weights = torch.cat([full_batch(data, step)[1]["weight"] for step in range(len(data.train))])
    assert weights.min() < 1 < weights.max()
    assert "common" in data.train.facts["report"]
    assert prepare_data(*own).train.is_weighted is False


def add_masks(root, numbers, left=0):
    """Each mask's left half has this grey, its right one is white."""
    for number in numbers:
        mask = np.full(SHAPES[number % len(SHAPES)], 255, dtype=np.uint8)
        mask[:, : mask.shape[1] // 2] = left
        Image.fromarray(mask).save(root / f"{number:03}-masklabel.png")


def masks_of(data, steps):
    """Each latent's mask, by the latent."""
    batches = [full_batch(data, step) for step in range(steps)]
    return {x0.numpy().tobytes(): mask for rows, cond in batches for x0, mask in zip(rows, cond["mask"], strict=True)}


def test_masks_are_cached_and_no_latent_is_encoded_for_them(own, encoded):
    root, _ = own
    add_masks(root, range(8))
    data = prepare_data(*own, "data.masks=files")
    assert len(data.train) == len(prepare_data(*own).train)
    assert encoded == {"latents": [], "texts": []}
    masks = masks_of(data, 2 * len(data.train))
    white = sum(bool((mask == 1).all()) for mask in masks.values())
    assert 0 < white < len(masks) == len(data.train)
    for mask in masks.values():
        assert mask.shape[0] == 1
        assert (mask[..., -1] == 1).all()
        assert (mask == 1).all() or (mask[..., 0] == 0).all()
    assert "with a mask: 8" in data.train.facts["report"]
    assert all("mask" not in cond for _, _, cond in data.held_out_batches(100, 3))


def test_only_a_changed_mask_is_encoded_again(own, encoded, monkeypatch):
    root, _ = own
    add_masks(root, range(8))
    names, mask = [], MaskEncoder.mask

    def recording(self, request):
        names.append(request.image.file.name)
        return mask(self, request)

    monkeypatch.setattr(MaskEncoder, "mask", recording)
    before = masks_of(prepare_data(*own, "data.masks=files"), 40)
    names.clear()
    add_masks(root, [3], left=100)
    after = masks_of(prepare_data(*own, "data.masks=files"), 40)
    assert names == ["003.png"]
    assert sum(not torch.equal(before[latent], after[latent]) for latent in before) <= 1
    assert not encoded["latents"]


def test_flipped_view_has_a_flipped_mask(own):
    add_masks(own[0], range(16))
    data = prepare_data(*own, "data.masks=files", "data.flip=true")
    masks = list(masks_of(data, 8 * len(data.train)).values())
    assert {(mask[0, 0, 0] == 0).item() for mask in masks} == {True, False}
    assert all((mask[..., 0] == 0).all() != (mask[..., -1] == 0).all() for mask in masks)


def test_transparent_pixels_are_masked_with_masks_alpha(own, encoded):
    root, _ = own
    for number in range(4):
        photo = image(number, SHAPES[number])
        alpha = Image.new("L", photo.size, 255)
        alpha.paste(0, (0, 0, photo.width // 2, photo.height))
        photo.putalpha(alpha)
        photo.save(root / f"{number:03}.png")
    data = prepare_data(*own, "data.masks=alpha")
    assert "with a mask: 4" in data.train.facts["report"]
    assert {mask[..., 0].max().item() for mask in masks_of(data, 2 * len(data.train)).values()} == {0.0, 1.0}
