import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.photos import SHAPES, image, make_photos
from ztsnr.caching.catalogue import build_catalogue
from ztsnr.caching.folder import list_images
from ztsnr.caching.settings import folder_options
from ztsnr.core.errors import BadImage, ConfigError


def listed(*roots, folders=()):
    return {file.name: file for file in list_images(list(roots), folder_options(list(folders)))}


def captions(root):
    return {name: file.captions for name, file in listed(root).items()}


def look(root, memory, stop=False, masks="none"):
    return build_catalogue(
        list_images([root], []),
        masks=masks,
        database=memory / "pictures.db",
        workers=2,
        stop_at_bad=stop,
        report=lambda more: None,
    )


def test_captions_come_from_text_files_beside_the_images(tmp_path):
    make_photos(tmp_path, 2)
    (tmp_path / "000.caption").write_text("\ufeffanother\n", encoding="utf-8")
    image(9, (8, 8)).save(tmp_path / "bare.jpg")
    assert captions(tmp_path) == {
        "000.png": ("image, number 0, small", "another"),
        "001.png": ("image, number 1, small",),
        "bare.jpg": (),
    }


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_captions_come_from_tables_in_the_folder_and_above(tmp_path, kind):
    for name in ("a.png", "below/b.png", "below/deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        image(0, (8, 8)).save(tmp_path / name)
    rows = [("a.png", "first"), ("below/b.png", "second"), ("below/deep/c.png", "third")]
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    elif kind == "csv":
        lines = ["file_name,caption", *(f'{name},"{text}"' for name, text in rows)]
        (tmp_path / "metadata.csv").write_text("\n".join(lines))
    else:
        columns = {"file_name": [name for name, _ in rows], "captions": [[text, "too"] for _, text in rows]}
        pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    more = ("too",) if kind == "parquet" else ()
    assert captions(tmp_path) == {name: (text, *more) for name, text in rows}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", '{"file_name": "a.png"}', "row 1, must have file_name and one of text"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', "text must be a text or a list of texts, got 3"),
        ("metadata.jsonl", "{", "cannot be read as a table of captions"),
        ("metadata.jsonl", "[1]", "is not an object"),
        ("metadata.csv", "name,text\na,b", "must have file_name"),
        ("x.parquet", "no parquet", "cannot be read as a table of captions"),
    ],
)
def test_broken_caption_table_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as refusal:
        listed(tmp_path)
    assert name in str(refusal.value)


def test_folder_options_apply_to_matching_folders(tmp_path):
    for name in ("mine", "reg/dogs", "other"):
        make_photos(tmp_path / name, 1)
    (tmp_path / "reg/dogs/000.txt").unlink()
    options = {"path": "mine", "repeats": 4, "trigger": "sks"}
    files = listed(tmp_path, folders=[options, {"path": "reg*", "class_token": "dog", "weight": 0.5}])
    assert (files["mine/000.png"].folder.repeats, files["mine/000.png"].folder.trigger) == (4, "sks")
    assert files["reg/dogs/000.png"].captions == ("dog",)
    assert files["reg/dogs/000.png"].folder.weight == 0.5
    assert files["other/000.png"].folder.repeats == 1
    two_roots = listed(tmp_path / "mine", tmp_path / "other", folders=[{"path": "other", "repeats": 2}])
    assert {name: file.folder.repeats for name, file in two_roots.items()} == {"mine/000.png": 1, "other/000.png": 2}


@pytest.mark.parametrize(
    "entry",
    [{"repeats": 2}, {"path": "a", "repeat": 2}, {"path": "a", "repeats": 0}, {"path": "a", "weight": 0}, "a"],
)
def test_folder_options_with_a_wrong_key_or_value_are_refused(entry):
    with pytest.raises(ConfigError, match=r"data\.folders"):
        folder_options([entry])


def test_bad_files_are_skipped_with_their_reasons(tmp_path):
    root = make_photos(tmp_path / "photos", 3)
    (root / "empty.png").write_bytes(b"")
    (root / "text.webp").write_text("not an image")
    (root / "half.png").write_bytes((root / "000.png").read_bytes()[:200])
    (root / "001.txt").write_bytes("写真".encode("shift_jis"))
    os.symlink(".", root / "loop")
    os.symlink("itself.png", root / "itself.png")
    os.symlink("absent.jpg", root / "nowhere.jpg")
    (root / "folder.png").mkdir()
    result = look(root, tmp_path)
    assert [entry.file.name for entry in result.images] == ["000.png", "002.png"]
    kinds = {name: reason.split(":")[0] for name, reason in result.skipped.items()}
    assert kinds == {
        "001.png": "its caption is not in UTF-8",
        "empty.png": "it is empty",
        "half.png": "it is broken",
        "itself.png": "it cannot be read",
        "nowhere.jpg": "it cannot be read",
        "text.webp": "it is not an image of a known format",
    }
    with pytest.raises(BadImage, match=r"001\.png: its caption .* data\.on_bad=skip continues without it"):
        look(root, tmp_path, stop=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_unreadable_file_is_skipped_with_its_reason(tmp_path):
    root = make_photos(tmp_path / "photos", 2)
    (root / "000.png").chmod(0)
    assert look(root, tmp_path).skipped == {"000.png": "it cannot be read: Permission denied"}


def test_file_is_examined_again_only_when_it_changed(tmp_path, monkeypatch):
    root, calls = make_photos(tmp_path / "photos", 4), []
    from ztsnr.caching import catalogue as module

    examine = module.examine
    monkeypatch.setattr(module, "examine", lambda content: calls.append(1) or examine(content))
    first = look(root, tmp_path)
    assert (len(calls), len(first.images)) == (4, 4)
    second = look(root, tmp_path)
    assert len(calls) == 4
    assert [entry.digest for entry in second.images] == [entry.digest for entry in first.images]
    image(99, (30, 40)).save(root / "002.png")
    third = look(root, tmp_path)
    assert len(calls) == 5
    assert third.images[2].size == (30, 40)
    assert third.images[2].digest != first.images[2].digest


def test_masks_are_not_listed_and_bad_ones_are_skipped_with_their_images(tmp_path):
    root = make_photos(tmp_path / "photos", 4)
    for number in range(3):
        Image.new("L", SHAPES[number][::-1], 200).save(root / f"{number:03}-masklabel.png")
    Image.new("L", (5, 5), 200).save(root / "001-masklabel.png")
    (root / "002-masklabel.png").write_bytes(b"")
    Image.new("L", (5, 5)).save(root / "nothing-masklabel.png")
    files = listed(root)
    assert files.pop("nothing-masklabel.png").bad.startswith("its name is that of a mask")
    assert {name: entry.mask and entry.mask.name for name, entry in files.items()} == {
        **{f"{number:03}.png": f"{number:03}-masklabel.png" for number in range(3)},
        "003.png": None,
    }
    plain, result = look(root, tmp_path), look(root, tmp_path, masks="files")
    assert [bool(entry.mask_digest) for entry in plain.images] == [False] * 4
    assert {entry.file.name: bool(entry.mask_digest) for entry in result.images} == {"000.png": True, "003.png": False}
    del result.skipped["nothing-masklabel.png"]
    assert result.skipped == {
        "001.png": "its mask has a different size: 5 x 5 for 80 x 60 pixels",
        "002.png": "its mask cannot be used: it is empty",
    }
    Image.new("L", (64, 64), 100).save(root / "000-masklabel.png")
    assert look(root, tmp_path, masks="files").images[0].mask_digest != result.images[0].mask_digest
