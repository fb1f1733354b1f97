import io
import json
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from tests.photos import make_data, make_photos, prepare_data
from ztsnr.caching.folder import FolderImages
from ztsnr.caching.webdataset import WebDataset
from ztsnr.core.errors import CacheError, ConfigError


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_shards(photos, folder, each=6):
    """The folder's images in tars, every third caption as JSON."""
    folder.mkdir(exist_ok=True)
    files = sorted(photos.glob("*.png"))
    for number in range(0, len(files), each):
        with tarfile.open(folder / f"{number:02}.tar", "w") as tar:
            for i, file in enumerate(files[number : number + each]):
                text = file.with_suffix(".txt").read_text()
                add(tar, f"deep/{file.stem}.png", file.read_bytes())
                if i % 3 == 0:
                    add(tar, f"deep/{file.stem}.json", json.dumps({"caption": text, "id": 7}).encode())
                else:
                    add(tar, f"deep/{file.stem}.txt", text.encode())
    return folder


def of_shards(root, cache, *overrides):
    return make_data(root, cache, *overrides, "data._target_=ztsnr.caching.webdataset.WebDataset")


@pytest.fixture
def shards(tmp_path):
    return write_shards(make_photos(tmp_path / "photos"), tmp_path / "shards")


def listed(data):
    return {file.name: file for file in data.listing()}


def test_members_of_a_tar_equal_the_files(shards, tmp_path):
    files = listed(of_shards(f"{shards}/*.tar", tmp_path / "cache"))
    plain = listed(make_data(tmp_path / "photos", tmp_path / "cache"))
    assert len(files) == 16
    for name, entry in plain.items():
        shard = f"{int(name[:3]) // 6 * 6:02}.tar"
        assert files[f"{shard}/deep/{name}"].read() == entry.read()
        assert files[f"{shard}/deep/{name}"].captions == entry.captions


def test_masks_belong_to_images_of_the_same_name(shards, tmp_path):
    with tarfile.open(shards / "masked.tar", "w") as tar:
        for name in ("a-masklabel.png", "a.png", "a.txt", "b.png", "b-masklabel.png", "c.png"):
            add(tar, name, name.encode())
    files = listed(of_shards(f"{shards}/masked.tar", tmp_path / "cache"))
    assert {name: entry.mask and entry.mask.read() for name, entry in files.items()} == {
        "masked.tar/a.png": b"a-masklabel.png",
        "masked.tar/b.png": b"b-masklabel.png",
        "masked.tar/c.png": None,
    }
    assert files["masked.tar/a.png"].captions == ("a.txt",)


def test_folder_options_match_shards_and_broken_shards_are_reported(shards, tmp_path):
    (shards / "06.tar").write_bytes((shards / "06.tar").read_bytes()[:20_000])
    (shards / "12.tar").write_bytes(b"no tar")
    data = of_shards(f"{shards}/*.tar", tmp_path / "cache", "data.folders=[{path: 00.tar, repeats: 3}]")
    files = listed(data)
    assert files["00.tar/deep/000.png"].folder.repeats == 3
    assert files["12.tar/"].bad.startswith("it cannot be read as a tar")
    with pytest.raises(ConfigError, match="matches no file"):
        of_shards(f"{shards}/*.tgz", tmp_path / "cache").listing()


class Serving(SimpleHTTPRequestHandler):
    """Parts of files, as object stores give them."""

    def do_GET(self):
        if "Range" not in self.headers:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(shards):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Serving, directory=shards)) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.parametrize("scheme", ["memory", "http"])
def test_remote_shards_equal_local_ones(shards, tmp_path, scheme, request):
    root = "memory://lake" if scheme == "memory" else request.getfixturevalue("server")
    if scheme == "memory":
        for file in shards.glob("*.tar"):
            fsspec.filesystem("memory").pipe(f"/lake/{file.name}", file.read_bytes())
    files, plain = (listed(of_shards(f"{root}/*.tar", tmp_path / "cache")) for root in (root, shards))
    assert {name: entry.read() for name, entry in files.items()} == {n: e.read() for n, e in plain.items()}
    with pytest.raises(ConfigError, match="nosuch"):
        of_shards("nosuch://lake/*.tar", tmp_path / "cache").listing()


@pytest.mark.slow
def test_shards_share_the_cache_of_the_folder_and_a_remote_cache_is_read(shards, tmp_path):
    cache = tmp_path / "cache"
    folder = prepare_data(tmp_path / "photos", cache)
    assert isinstance(folder, FolderImages)
    written = {path.name for path in (cache / "latents").iterdir()}
    data = of_shards(f"{shards}/*.tar", cache)
    data.prepare()
    assert isinstance(data, WebDataset)
    assert len(data.train) == len(folder.train)
    assert {path.name for path in (cache / "latents").iterdir()} == written
    elsewhere = fsspec.filesystem("memory")
    elsewhere.put(str(cache), "/lake/cache", recursive=True)
    copies = f"data.local_cache={tmp_path / 'copies'}"
    remote = of_shards(f"{shards}/*.tar", "memory://lake/cache", "data.refresh=false", copies)
    remote.prepare()
    assert (remote.batch(0, range(2), 2)[0] == data.batch(0, range(2), 2)[0]).all()
    assert list((tmp_path / "copies").iterdir())
    with pytest.raises(ConfigError, match=r"is read-only\. Set data\.refresh=false"):
        of_shards(f"{shards}/*.tar", "memory://lake/cache")
    with pytest.raises(CacheError, match="cannot be read"):
        of_shards(f"{shards}/*.tar", "memory://lake/cache", "data.refresh=false", copies, "data.crops=5").prepare()
