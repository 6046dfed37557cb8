"""Datasets from files: what is found, refused, fetched or asked for by name."""

import gzip
import hashlib
import os
import pickle
import shutil
import struct
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision import datasets

from uldm_core import MistakeError, RunError, registry
from uldm_core.protocols import HasLabels
from uldm_plugins.datasets import fetched
from uldm_plugins.datasets.mnist import EMBEDDED
from uldm_plugins.shared import cache, checked_files, files, similar
from uldm_plugins.shared.files import MAX_PIXELS, Reading, image_names
from uldm_plugins.shared.similar import Duplicates
from uldm_plugins.shared.splits import groups_of, is_for_testing


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


def build_small(dataset, limit):
    return type(dataset)(dataset.root, limit=limit, auto_download=False).fingerprint


def test_mnist_is_the_same_wherever_and_however_it_lies(tmp_path):
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(gzip.decompress((EMBEDDED / f"{name}.gz").read_bytes()))
    here = registry.build("dataset", "mnist", subset="test")
    assert registry.build("dataset", "mnist", root=tmp_path, subset="test").fingerprint == here.fingerprint
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    assert registry.build("dataset", "mnist", root=tmp_path, subset="test").fingerprint != here.fingerprint


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
    shutil.copytree(tmp_path / "FashionMNIST", tmp_path / "other" / "FashionMNIST")
    other = registry.build("dataset", "fashion_mnist", root=tmp_path / "other", auto_download=False)
    assert other.fingerprint == ours.fingerprint
    assert {build_small(ours, limit) for limit in (None, 6, 7)} == {ours.fingerprint}
    assert build_small(ours, 5) != ours.fingerprint
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
    assert build_small(ours, 8) == ours.fingerprint != build_small(ours, 7)
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
    (folder / "img_align_celeba" / names[0]).write_text("damaged")
    less = registry.build("dataset", "celeba", root=tmp_path, size=32, auto_download=False)
    assert len(less) == len(less.labels) == 2 and torch.equal(
        less.images(torch.tensor([1])).float()[0], images[1]
    )
    assert less.left_out == {"img_align_celeba/000001.jpg": "no PNG, JPEG, WebP, BMP, TIFF or GIF"}
    assert less.fingerprint != ours.fingerprint


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
    paths, others = list(train.paths), list(train.split("test").paths)
    assert len(paths) + len(others) == 20 and 1 <= len(others) <= 5
    assert paths == sorted(paths) and not set(paths) & set(others)
    picture = np.asarray(Image.open(train.paths[3]))[:, 5:25]
    assert torch.equal(train.images(torch.tensor([3]))[0].permute(1, 2, 0), torch.from_numpy(picture.copy()))
    assert build(folder, size=20).fingerprint == train.fingerprint


def of_folders(root, **options):
    """Return the folders that each split's images are in."""
    train = build(root, size=8, **options)
    return {name: {path.parent.name for path in train.split(name).paths} for name in train.splits}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train2017", "val2017"), "/b has folders train2017, val2017: their images are mixed"),
        (("Training/x", "Testing/x"), "/b has folders Testing, Training: "),
        (("trainA", "testB"), "/b has folders testB, trainA: "),
        (("trains", "valleys"), ""),
        (("test", "val"), ""),
    ],
)
def test_folders_named_like_splits_that_are_none_are_logged(folder, caplog, names, said):
    for old, new in zip("01", names):
        (folder / "b" / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / "b" / new)
    build(folder)
    assert said in caplog.text if said else "are mixed" not in caplog.text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test", "c"), {"train": {"train"}, "test": {"test"}}),
        (("train", "val", "c"), {"train": {"train"}, "test": {"val"}}),
        (("Train", "Validation", "c"), {"train": {"Train"}, "test": {"Validation"}}),
        (("train", "test", "valid"), {"train": {"train"}, "valid": {"valid"}, "test": {"test"}}),
        (("train", "b", "c"), {"train": {"train", "b", "c"}, "test": {"c"}}),
        (("a", "val", "test"), {"train": {"a", "val", "test"}, "test": {"test"}}),
    ],
)
def test_folders_named_train_test_and_val_are_the_splits(folder, caplog, names, expected):
    for old, new in zip("012", names):
        (folder / old).rename(folder / new)
    found = of_folders(folder)
    shared = len(expected["train"]) > 1
    assert found == expected if not shared else found["train"] == expected["train"]
    left_out = build(folder).left_out
    if "c" in names:
        assert (not left_out) if shared else {name[:2] for name in left_out} == {"c/"}
    said = {
        "b": "a folder train but none named test or val: all images are used, also those in b, c",
        "val": "has a folder val but none named train: its images are trained on like all others",
    }
    assert said.get(names[1], "") in caplog.text if shared else "but none named" not in caplog.text
    with pytest.raises(ValueError, match="there is no split 'other'"):
        build(folder).split("other")


def test_a_split_without_a_usable_image_is_refused_with_the_first(folder):
    (folder / "0").rename(folder / "train")
    (folder / "test").mkdir()
    (folder / "test" / "a.png").write_text("no image")
    with pytest.raises(MistakeError, match="test has no usable image: put some there"):
        build(folder)
    shutil.rmtree(folder / "test")
    (folder / "test").symlink_to("where no disk is mounted")
    with pytest.raises(MistakeError, match="test has no usable image: put some there"):
        build(folder)
    with pytest.raises(MistakeError, match="there is no split 'valid'; there are: train, test"):
        build(folder / "train", subset="valid")


def test_folders_of_a_split_are_classes(folder, caplog):
    train = build(folder)
    assert train.class_names == train.split("test").class_names == ("0", "1", "2")
    for split in (train, train.split("test")):
        assert [path.parent.name for path in split.paths] == [str(label) for label in split.labels.tolist()]
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    shutil.copytree(folder / "2", folder / "train" / "b" / "deep")
    for old, new in (("0", "train/a"), ("1", "test/b"), ("2", "test/c")):
        (folder / old).rename(folder / new)
    inside = build(folder)
    assert inside.class_names == ("a", "b", "c") and set(inside.labels.tolist()) == {0, 1}
    assert set(inside.split("test").labels.tolist()) == {1, 2}
    assert inside.duplicates.exact == int((inside.split("test").labels == 2).sum())
    before = fingerprints(folder)
    (folder / "train" / "b").rename(folder / "train" / "z")
    assert fingerprints(folder) != before  # labels are others
    (folder / "train" / "a" / "00.png").rename(folder / "train" / "00.png")
    assert not isinstance(build(folder), HasLabels)


def test_one_folder_is_no_class(folder):
    for name in "12":
        shutil.rmtree(folder / name)
    assert not isinstance(build(folder), HasLabels)


def test_copies_and_near_copies_of_training_images_are_counted(tmp_path, caplog):
    generator = np.random.default_rng(0)
    ramps = generator.uniform(0, 255, (40, 9, 9, 3)).repeat(4, 1).repeat(4, 2)
    for index, ramp in enumerate(ramps):
        path = tmp_path / ("train" if index < 30 else "test") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(ramp.astype(np.uint8)).save(path)
    shutil.copy(tmp_path / "train" / "0.png", tmp_path / "test" / "copy.png")
    for index in (1, 2):  # a little darker, a little smaller
        near = Image.open(tmp_path / "train" / f"{index}.png").point(lambda value: int(value * 0.9))
        near.save(tmp_path / "test" / f"near{index}.png")
    for split in ("train", "test"):
        Image.new("RGB", (36, 36), (len(split), 0, 0)).save(tmp_path / split / "flat.png")
    found = build(tmp_path, size=32).split("test").duplicates
    assert found == Duplicates(exact=1, near=3, compared=14)
    assert caplog.text.count("1 test images have the very content of a training image") == 1
    assert caplog.text.count("3 of 14 test images that were compared look nearly like a training") == 1
    assert build(tmp_path, size=32, pack=False).duplicates == Duplicates(1, 0, 0)


def test_of_many_images_a_sample_is_compared(folder, monkeypatch):
    monkeypatch.setattr(similar, "_MOST_COMPARED", 12)
    assert 0 < build(folder, test_share=0.5).duplicates.compared < 12


def contents(*numbers):
    return np.array([[number % 256, number // 256] for number in numbers], np.uint8)


def chosen(*numbers, groups=None, share=0.3, seed=0):
    """Return which of some contents are for testing."""
    is_test = is_for_testing(contents(*numbers), groups, share, seed, "here")
    return {number for number, chosen in zip(numbers, is_test) if chosen}


@given(count=st.integers(2, 200), share=st.floats(0, 1, exclude_min=True, exclude_max=True))
@example(count=9, share=0.1)
@example(count=2, share=0.99)
@example(count=2, share=1e-9)
def test_both_splits_have_images_whatever_their_number(count, share):
    test = chosen(*range(count), share=share)
    assert 0 < len(test) < count


def test_the_share_is_about_kept_and_another_seed_draws_others():
    test = chosen(*range(4000), share=0.1)
    assert 340 < len(test) < 460
    assert 10 < len(test & chosen(*range(4000), share=0.1, seed=1)) < 80


@given(st.sets(st.integers(0, 999), min_size=20), st.sets(st.integers(0, 999), min_size=20))
def test_other_images_change_nothing(some, more):
    both = chosen(*some, *more)
    alone = chosen(*some)
    assert len(alone) == 1 or alone == both & some


def test_copies_and_groups_stay_in_one_split():
    numbers = list(range(300)) * 2
    is_test = is_for_testing(contents(*numbers), None, 0.3, 0, "here")
    assert np.array_equal(is_test[:300], is_test[300:])
    groups = [str(number // 10) for number in range(300)]
    is_test = is_for_testing(contents(*range(300)), groups, 0.3, 0, "here")
    assert {len(set(part)) for part in is_test.reshape(30, 10).tolist()} == {1} and 0.1 < is_test.mean() < 0.5
    shared = [*range(290), *range(10)]  # the last group is of the first one's images
    joined = is_for_testing(contents(*shared), groups, 0.3, 0, "here")
    assert joined[0] == joined[299]
    assert np.array_equal(joined[10:290], is_test[10:290])  # others stay where they are
    fewer = is_for_testing(contents(*range(0, 300, 2)), groups[::2], 0.3, 0, "here")
    assert np.array_equal(fewer, is_test[::2])
    none = is_for_testing(contents(*range(300)), [""] * 300, 0.3, 0, "here")
    assert np.array_equal(none, is_for_testing(contents(*range(300)), None, 0.3, 0, "here"))


def test_groups_are_folders_or_what_a_regular_expression_finds():
    names = ["a/b/1.png", "a/2.png", "a/x_3.png", "y_4.png"]
    assert groups_of(names, "none") is None
    assert list(groups_of(names, "folder")) == ["a/b", "a", "a", ""]
    assert list(groups_of(names, "(.)_[0-9]")) == ["", "", "x", "y"]
    for wrong, said in (("(", "no regular expression"), ("a.*", "has no parentheses")):
        with pytest.raises(ValueError, match=said):
            groups_of(names, wrong)
    with pytest.raises(ValueError, match="here has 2 usable images, which are in one group: add more"):
        is_for_testing(contents(1, 2), ["a", "a"], 0.5, 0, "here")
    with pytest.raises(ValueError, match="here has 2 usable images, which have one content: add more"):
        is_for_testing(contents(1, 1), None, 0.5, 0, "here")


def test_groups_of_a_folder_stay_in_one_split(folder):
    train = build(folder, groups="folder", split_seed=1)
    sides = [{path.parent.name for path in split.paths} for split in (train, train.split("test"))]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == {"0", "1", "2"}


def test_one_image_alone_is_refused(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(MistakeError, match="has one usable image: add more"):
        build(tmp_path)


def test_bad_files_are_counted_named_and_left_out(folder, caplog):
    first = sorted(folder.rglob("*.png"))
    first[0].write_bytes(first[0].read_bytes()[:-30])
    first[1].write_text("no image")
    middle = bytearray(first[2].read_bytes())
    middle[len(middle) // 2] ^= 1
    first[2].write_bytes(middle)
    Image.new("RGB", (400, 400)).save(first[3])
    for number in range(12):
        (folder / f"{number}.heic").touch()
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    train = build(folder, test_share=0.01, max_pixels=10_000)
    usable = len(train) + len(train.split("test"))
    for said in (
        "12 .heic, not PNG, JPEG, WebP, BMP, TIFF or GIF: convert to one of these (",
        ".heic and 7 more)",
        "left out of 34 images: 1 cut short (0/00.png)",
        "1 no PNG, JPEG, WebP, BMP, TIFF or GIF (0/03.png)",
        "1 damaged: a checksum is wrong (0/06.png)",
    ):
        assert said in caplog.text
    assert usable == 16 and len(train.left_out) == 18
    assert train.left_out["0/09.png"] == "more than 10000 pixels, which is max_pixels"
    assert train.left_out["\\xff.jpg"] == "empty"


def test_a_name_that_is_no_utf8_is_an_image_like_others(tmp_path):
    for value, name in enumerate((b"\xff.png", b"a\n.png")):
        Image.new("L", (4, 4), value + 1).save(tmp_path / os.fsdecode(name))
    train = build(tmp_path, size=4, channels=1, pack=False)
    assert {int(part.images(torch.tensor([0])).max()) for part in (train, train.split("test"))} == {1, 2}
    assert len(build(tmp_path, size=4)) == 1
    (tmp_path / os.fsdecode(b"\xff.png")).unlink()
    with pytest.raises(ValueError, match=r"\\xff\.png cannot be decoded \(No such file"):
        [split.images(torch.tensor([0])) for split in (train, train.split("test"))]


def test_a_file_that_goes_while_files_are_listed_is_left_out(folder, monkeypatch):
    found, left_out = image_names(folder)
    listed = ([*found, b"gone.png"], left_out)
    monkeypatch.setattr("uldm_plugins.datasets.image_folder.image_names", lambda root: listed)
    assert build(folder).left_out == {"gone.png": "No such file or directory"}


def fingerprints(root, **options):
    train = build(root, **options)
    return train.fingerprint, train.split("test").fingerprint


def test_a_datasets_identity_is_its_content(folder, tmp_path_factory):
    before = fingerprints(folder)
    assert len(set(before)) == 2
    copy = tmp_path_factory.mktemp("other") / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert fingerprints(copy) == before
    (copy / "0" / "05.png").write_text("damaged")
    (copy / "b.tif").touch()
    assert fingerprints(copy) == before and len(build(copy).left_out) == 2
    (copy / "0" / "05.png").unlink()
    os.utime(copy / "0" / "00.png")
    assert fingerprints(copy) == before
    for options in ({"size": 32}, {"channels": 1}, {"limit": 1}):
        assert fingerprints(copy, **options)[0] != before[0]
    picture = np.array(Image.open(copy / "0" / "00.png"))
    picture[0, 0, 0] ^= 1
    Image.fromarray(picture).save(copy / "0" / "00.png")
    after = fingerprints(copy)
    assert after[0] != before[0] and after[1] == before[1]  # a split's identity is its own images


@pytest.fixture
def own_cache(monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    monkeypatch.setattr(cache, "cache_folder", lambda: place / "uldm")
    return place


def test_what_is_known_of_files_is_forgotten_when_nobody_asked_for_a_month(own_cache, folder, tmp_path):
    for name in ("old", "used", "new"):
        shutil.copytree(folder / "0", tmp_path / name)
    lists, month = own_cache / "uldm" / "images", time.time() - 31 * 24 * 3600
    checked_files.usable(tmp_path / "old", MAX_PIXELS)
    old = set(lists.iterdir())
    checked_files.usable(tmp_path / "used", MAX_PIXELS)
    for path in lists.iterdir():
        os.utime(path, (month, month))
    checked_files.usable(tmp_path / "used", MAX_PIXELS)
    both = set(lists.iterdir())
    assert len(both) == 2, "nothing new was made"
    checked_files.usable(tmp_path / "new", MAX_PIXELS)
    assert both - set(lists.iterdir()) == old and len(set(lists.iterdir())) == 2


@pytest.fixture
def decoded(monkeypatch):
    """Count what is decoded from now on."""
    seen = []

    def parse(content):
        seen.append(content)
        return real(content)

    real = files.parse
    for module in (files, checked_files):
        monkeypatch.setattr(module, "parse", parse)
    return seen


@pytest.mark.parametrize("pack", [True, False])
def test_an_image_is_decoded_once_until_it_changes(folder, own_cache, decoded, pack):
    (folder / "bad.png").write_text("damaged")
    first = build(folder, pack=pack)
    assert len(decoded) == 21
    again = build(folder, pack=pack)
    assert len(decoded) == 21 and again.fingerprint == first.fingerprint and again.left_out == first.left_out
    assert build(folder, pack=not pack).fingerprint == first.fingerprint
    assert len(decoded) == 21 + 20 * (not pack)  # to be packed; that one is bad is known
    assert build(folder, max_pixels=10_000, pack=pack).fingerprint == first.fingerprint
    decoded.clear()
    Image.new("RGB", (30, 20)).save(folder / "bad.png")
    changed = build(folder, pack=False)
    assert len(decoded) == 1 and not changed.left_out and changed.fingerprint != first.fingerprint
    (folder / "bad.png").unlink()
    (folder / "bad.png").symlink_to("nowhere")
    assert build(folder).left_out == {"bad.png": "a broken link"}


def test_packed_images_are_those_of_the_files(folder, own_cache):
    """Also in a copy of the folder, which needs no array of its own, and of other options, which does."""
    options = {"size": (12, 20), "test_share": 0.3}
    packed, read = (build(folder, pack=pack, **options) for pack in (True, False))
    for split in packed.splits:
        every = torch.arange(len(packed.split(split))).flip(0)
        assert torch.equal(packed.split(split).images(every), read.split(split).images(every))
    copy = own_cache / "copy"
    shutil.copytree(folder, copy)
    copied = build(copy, **options)
    assert copied.fingerprint == packed.fingerprint and len(arrays(own_cache)) == 1
    build(folder, **options, fit="pad")
    assert len(arrays(own_cache)) == 2
    assert build(folder, **options, limit=2).images(torch.tensor([0, 1])).shape == (2, 3, 12, 20)
    assert len(arrays(own_cache)) == 2


def arrays(own_cache):
    return [path for path in own_cache.glob("uldm/packed/*.npy") if np.load(path, mmap_mode="r").ndim == 4]


def test_images_that_are_read_ahead_are_those_that_are_asked_for(folder, decoded):
    train = build(folder, pack=False)
    decoded.clear()
    first, second = torch.tensor([3, 1]), torch.tensor([0, 2, 0])
    wanted = train.images(second)
    train.prefetch(second)
    train.prefetch(first)  # and not what was asked for before
    assert torch.equal(train.images(second), wanted)
    train.prefetch(second)
    for decoding in train._images._ahead.values():
        decoding.result()
    before = len(decoded)
    assert torch.equal(train.images(second), wanted) and len(decoded) == before
    assert torch.equal(train.images(second), wanted) and len(decoded) == before + 3


def test_a_file_that_changes_while_images_are_packed_is_not_packed(folder, own_cache, monkeypatch, caplog):
    real = checked_files.ImageFiles.read

    def read(files):
        real(files)
        Image.new("RGB", (8, 8)).save(folder / "0" / "00.png")

    monkeypatch.setattr(checked_files.ImageFiles, "read", read)
    build(folder)
    assert "00.png was changed while images were packed" in caplog.text and not arrays(own_cache)


def test_what_cannot_be_read_for_a_while_is_tried_again(folder, own_cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("uldm_plugins.shared.files._open_without_waiting", refuse_some)
        assert len(build(folder).left_out) == 7
    assert not build(folder).left_out


def refuse_some(path, flags):
    if os.path.basename(os.path.dirname(path)) == "0":
        raise OSError(5, "Input/output error")
    return os.open(path, flags)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_cache_is_ignored(folder, own_cache, decoded, content):
    first = build(folder)
    (file,) = (own_cache / "uldm" / "images").iterdir()
    file.write_bytes(content)
    decoded.clear()
    assert build(folder, pack=False).fingerprint == first.fingerprint and len(decoded) == 20
    assert build(folder, pack=False).fingerprint == first.fingerprint and len(decoded) == 20


def test_a_cache_that_cannot_be_written_is_done_without(folder, own_cache, monkeypatch, caplog):
    (own_cache / "uldm").write_text("a file where the folder should be")
    there = build(folder)
    assert "images are not packed, but decoded whenever they are needed" in caplog.text
    assert torch.equal(there.images(torch.tensor([0])), Reading((64, 64), 3).batch([there.paths[0]]))

    def homeless():
        raise RunError("there is no place for the cache")

    monkeypatch.setattr(cache, "cache_folder", homeless)
    assert build(folder).fingerprint == there.fingerprint


def test_the_cache_lies_where_a_person_keeps_caches(own_cache_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert own_cache_folder() == tmp_path / "uldm"
    monkeypatch.setenv("XDG_CACHE_HOME", "not absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert own_cache_folder() == tmp_path / ".cache" / "uldm"


def test_progress_is_logged_while_images_are_checked(folder, own_cache, monkeypatch, caplog):
    monkeypatch.setattr(checked_files, "_EVERY", 0.0)
    caplog.set_level("INFO", "uldm_plugins")
    build(folder, pack=False)
    assert "checked 1 of 20 images" in caplog.text and "checked 20 of 20 images" in caplog.text


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats_modes_and_orientation(tmp_path, ending, channels):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    for rest in range(2):
        ramp[:, -1] -= rest
        Image.fromarray(ramp).save(tmp_path / f"{rest}.{ending}", exif=exif, quality=95 - rest)
    image = build(tmp_path, size=64, channels=channels, test_share=0.5).images(torch.tensor([0]))[0]
    assert image.shape == (channels, 64, 64)
    down = image.float().mean((0, 2))
    assert down[-1] - down[0] > 240 and image.float().std(2).max() < 8


def test_sixteen_bits_of_grey_keep_their_upper_half(tmp_path):
    ramp = (np.linspace(0, 65535, 32)[None].repeat(32, 0)).astype(np.uint16)
    for rest in range(2):
        Image.fromarray(ramp - rest * np.uint16(256) * (ramp > 256)).save(tmp_path / f"{rest}.png")
    image = build(tmp_path, size=32, channels=1, test_share=0.5).images(torch.tensor([0]))
    assert abs(int(image[0, 0, 0, 16]) - 131) < 4 and image.max() >= 254


def test_a_missing_or_empty_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MistakeError, match=r"there is no path '.*nowhere'\n"):
        build(tmp_path / "nowhere")
    with pytest.raises(MistakeError, match=r"expected a folder, '.*file' is a file"):
        build(tmp_path / "file")
    with pytest.raises(MistakeError, match="has no images"):
        build(tmp_path)


def test_a_file_that_breaks_later_is_named(folder):
    train = build(folder, max_pixels=10_000, pack=False)
    Image.new("RGB", (400, 400)).save(train.paths[0])
    with pytest.raises(RunError, match="more than 10000 pixels"):
        train.images(torch.tensor([0]))
    train.paths[0].write_text("gone")
    with pytest.raises(RunError, match=f"{train.paths[0].name} cannot be decoded") as caught:
        train.images(torch.tensor([0]))
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


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
