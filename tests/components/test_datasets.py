"""Datasets from files: what is found, refused, fetched or asked for by name."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from uldm_core import MistakeError, registry
from uldm_plugins.datasets import fetched


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    for module in ("torchvision.datasets.utils.urllib.request.urlopen",):
        monkeypatch.setattr(module, refuse)
    monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", refuse)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "celeba"])
@pytest.mark.parametrize("auto_download", [True, False])
def test_no_files_and_no_network_names_what_is_wanted(offline, name, auto_download, tmp_path):
    with pytest.raises(MistakeError) as caught:
        registry.build("dataset", name, root=str(tmp_path), auto_download=auto_download)
    said = str(caught.value)
    wanted = {
        "fashion_mnist": (
            "train-images-idx3-ubyte.gz",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "FashionMNIST/raw",
        ),
        "cifar10": (
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu",
            "c58f30108f718f92721af3b95e74349a",
        ),
        "celeba": ("img_align_celeba.zip", "list_eval_partition.txt", "00d2c5bc6d35e252742224ab0c1e8fcb"),
    }
    for part in (*wanted[name], str(tmp_path)):
        assert part in said
    assert ("auto_download is off" in said) is not auto_download


def idx(values):
    return gzip.compress(
        struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def test_fashion_mnist_reads_what_torchvision_reads(tmp_path, monkeypatch):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    resources = []
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 6), ("t10k", 3)):
        for part, values in (
            ("images-idx3", generator.integers(256, size=(count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", generator.integers(10, size=count, dtype=np.uint8)),
        ):
            path = folder / f"{prefix}-{part}-ubyte.gz"
            path.write_bytes(idx(values))
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    ours = registry.build("dataset", "fashion_mnist", root=tmp_path, auto_download=False)
    theirs = datasets.FashionMNIST(tmp_path, train=True)
    assert torch.equal(ours.images(torch.arange(6))[:, 0], theirs.data)
    assert torch.equal(ours.labels, theirs.targets) and len(ours.split("test")) == 3
    assert ours.fingerprint != ours.split("test").fingerprint
    (folder / resources[0][0]).write_bytes(b"damaged")
    with pytest.raises(MistakeError, match="is damaged: its MD5 is not"):
        registry.build("dataset", "fashion_mnist", root=tmp_path, auto_download=False)


def test_cifar10_reads_what_torchvision_reads(tmp_path, monkeypatch):
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)

    def written(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name):
        data = generator.integers(256, size=(4, 3072), dtype=np.uint8)
        return written(name, {"data": data, "labels": [0, 1, 2, 3]})

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch("data_batch_1"), batch("data_batch_2")])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch")])
    name, md5 = written("batches.meta", {"label_names": ["a", "b", "c", "d"]})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    ours = registry.build("dataset", "cifar10", root=tmp_path, auto_download=False)
    theirs = datasets.CIFAR10(tmp_path, train=True)
    assert torch.equal(ours.images(torch.arange(8)).permute(0, 2, 3, 1), torch.from_numpy(theirs.data))
    assert ours.labels.tolist() == theirs.targets and len(ours.split("test")) == 4
    (folder / "data_batch_1").write_bytes(pickle.dumps("not to be loaded"))
    with pytest.raises(MistakeError, match="missing or damaged"):
        registry.build("dataset", "cifar10", root=tmp_path, auto_download=False)


def test_celeba_cuts_the_middle_of_torchvisions_images(tmp_path, monkeypatch):
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, 6)]
    for value, name in enumerate(names):
        picture = np.full((218, 178, 3), 200, np.uint8)
        picture[39:179, 19:159] = 30 * value
        Image.fromarray(picture).save(folder / "img_align_celeba" / name, quality=95)
    columns = {"identity_CelebA.txt": 1, "list_eval_partition.txt": 1}
    headed = {"list_attr_celeba.txt": 40, "list_bbox_celeba.txt": 4, "list_landmarks_align_celeba.txt": 10}
    for file, count in {**columns, **headed}.items():
        rows = [f"{name} {' '.join(['0' if i < 3 else '2'] * count)}" for i, name in enumerate(names)]
        head = [str(len(names)), " ".join(["x"] * count)] if file in headed else []
        (folder / file).write_text("\n".join([*head, *rows]) + "\n")
    files = [
        (key, hashlib.md5((folder / name).read_bytes()).hexdigest() if name.endswith("txt") else md5, name)
        for key, md5, name in datasets.CelebA.file_list
    ]
    monkeypatch.setattr(datasets.CelebA, "file_list", files)
    ours = registry.build("dataset", "celeba", root=tmp_path, size=32, auto_download=False)
    assert len(ours) == 3 and len(ours.split("test")) == 2
    images = ours.images(torch.tensor([0, 2])).float()
    assert (images[0].mean() - 0).abs() < 3 and (images[1].mean() - 60).abs() < 3


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / f"{index % 3}" / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path


def build(root, **options):
    return registry.build("dataset", "image_folder", root=root, **options)


def test_a_tree_of_images_is_read_sorted_and_split(folder):
    train = build(folder, size=20)
    assert (len(train), len(train.split("test"))) == (18, 2)
    assert train.paths == sorted(train.paths)
    assert not set(train.paths) & set(train.split("test").paths)
    picture = np.asarray(Image.open(train.paths[3]))[:, 5:25]
    assert torch.equal(train.images(torch.tensor([3]))[0].permute(1, 2, 0), torch.from_numpy(picture.copy()))
    assert build(folder, size=20).fingerprint == train.fingerprint


def test_folders_named_train_and_test_are_the_splits(folder):
    (folder / "0").rename(folder / "train")
    (folder / "1").rename(folder / "test")
    train = build(folder, size=8)
    assert {path.parent.name for path in train.paths} == {"train"}
    assert {path.parent.name for path in train.split("test").paths} == {"test"}


def test_bad_files_are_counted_named_and_left_out(folder, caplog):
    first = sorted(folder.rglob("*.png"))
    first[0].write_bytes(first[0].read_bytes()[:-30])
    first[1].write_text("no image")
    Image.new("RGB", (400, 400)).save(first[2])
    (folder / "a.jpg").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    train = build(folder, test_share=0.01, max_pixels=10_000)
    assert "4 of 21 image files are left out" in caplog.text
    for path, why in ((first[0], "cut short"), (first[1], "no PNG"), (first[2], "more than 10000 pixels")):
        assert f"{path} ({why}" in caplog.text or why in caplog.text.partition(str(path))[2][:60]
    assert len(train) == 17


def test_a_bomb_is_refused_before_it_is_decoded(folder, monkeypatch, caplog):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(MistakeError, match=r"none of .* files is a usable image"):
        build(folder)


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats_modes_and_orientation(tmp_path, ending, channels):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    for name in ("a", "b"):
        Image.fromarray(ramp).save(tmp_path / f"{name}.{ending}", exif=exif, quality=95)
    image = build(tmp_path, size=64, channels=channels, test_share=0.5).images(torch.tensor([0]))[0]
    assert image.shape == (channels, 64, 64)
    down = image.float().mean((0, 2))
    assert down[-1] - down[0] > 240 and image.float().std(2).max() < 8


def test_sixteen_bits_of_grey_keep_their_upper_half(tmp_path):
    ramp = (np.linspace(0, 65535, 32)[None].repeat(32, 0)).astype(np.uint16)
    for name in "ab":
        Image.fromarray(ramp).save(tmp_path / f"{name}.png")
    image = build(tmp_path, size=32, channels=1, test_share=0.5).images(torch.tensor([0]))
    assert abs(int(image[0, 0, 0, 16]) - 131) < 4 and image.max() == 255


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MistakeError, match=r"there is no path '.*nowhere'\n"):
        build(tmp_path / "nowhere")
    with pytest.raises(MistakeError, match=r"expected a folder, '.*file' is a file"):
        build(tmp_path / "file")
    with pytest.raises(MistakeError, match="has no images"):
        build(tmp_path)


def test_a_file_that_breaks_later_is_named(folder):
    train = build(folder)
    train.paths[0].write_text("gone")
    with pytest.raises(ValueError, match=f"{train.paths[0].name} cannot be decoded"):
        train.images(torch.tensor([0]))


def test_synthetic_images_show_their_labels():
    dataset = registry.build("dataset", "synthetic", count=200, size=32, channels=1)
    images = dataset.images(torch.arange(200)).float()
    assert dataset.labels.bincount().min() > 40
    centres = dataset.places[:, :2] * 0.5 + 0.25
    column, row = (centres * 32).long().T
    centre = images[torch.arange(200), 0, row, column]
    corner = images[:, 0, 0, 0]
    filled = dataset.labels != 2
    assert (centre > corner)[filled].all() and (centre == corner)[~filled].float().mean() > 0.95


def test_fetching_wants_no_network_when_files_are_there(monkeypatch):
    made = []

    def make(download):
        made.append(download)
        return "data"

    assert fetched.load_or_fetch(make, False, "") == "data" and made == [False]
