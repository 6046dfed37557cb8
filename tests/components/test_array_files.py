"""Images in arrays of NumPy: layouts, ranges, labels, splits, and what is refused."""

import shutil

import numpy as np
import pytest
import torch

from uldm_core import MistakeError, registry
from uldm_core.protocols import HasClassNames, HasLabels
from uldm_core.recipe import Recipe
from uldm_core.run_folder.data import stand_in
from uldm_plugins.datasets.array_files import Arrays
from uldm_plugins.shared import stored_arrays

PIXELS = np.random.default_rng(0).integers(256, size=(60, 6, 7, 3), dtype=np.uint8)


def build(root, **options):
    return registry.build("dataset", "arrays", root=root, **options)


def everything(dataset):
    """Return the images of both splits, each as bytes."""
    splits = [dataset.split(name) for name in dataset.splits]
    return [[image.tobytes() for image in each.images(torch.arange(len(each))).numpy()] for each in splits]


@pytest.fixture
def plain(tmp_path):
    np.save(tmp_path / "plain.npy", PIXELS)
    return build(tmp_path / "plain.npy")


def test_an_array_is_split_by_content(plain):
    train, test = everything(plain)
    assert sorted(train + test) == sorted(image.tobytes() for image in PIXELS.transpose(0, 3, 1, 2).copy())
    assert 0 < len(test) < 20 and not set(train) & set(test)
    assert (plain.channels, plain.size) == (3, (6, 7)) and not isinstance(plain, HasLabels)
    with pytest.raises(IndexError):
        plain.images(torch.tensor([len(plain)]))


@pytest.mark.parametrize("way", ["npz", "compressed", "folder", "NCHW", "16 bits", "floats", "moved"])
def test_the_same_images_are_the_same_dataset_however_they_lie(plain, tmp_path, way, monkeypatch):
    monkeypatch.setattr(stored_arrays, "_AT_A_TIME", 700)
    place, options = tmp_path / "other.npy", {}
    if way == "npz":
        place, options = tmp_path / "other.npz", {"member": "pixels"}
        np.savez(place, pixels=PIXELS, labels=np.arange(60))
    elif way == "compressed":
        place = tmp_path / "other.npz"
        np.savez_compressed(place, PIXELS)
    elif way == "folder":
        place = tmp_path / "other"
        place.mkdir()
        for name, part in (("a", PIXELS[:25]), ("b", PIXELS[25:26]), ("c", PIXELS[26:])):
            np.save(place / f"{name}.npy", part)
    elif way == "NCHW":
        np.save(place, PIXELS.transpose(0, 3, 1, 2))
    elif way == "16 bits":
        np.save(place, PIXELS.astype(np.uint16) * 257)
        options = {"range": (0, 65535)}
    elif way == "floats":
        np.save(place, PIXELS.astype(np.float32) / 127.5 - 1)
        options = {"range": (-1, 1)}
    else:
        shutil.copyfile(tmp_path / "plain.npy", place)
    other = build(place, **options)
    assert other.fingerprint == plain.fingerprint
    assert other.split("test").fingerprint == plain.split("test").fingerprint
    assert everything(other) == everything(plain)


def test_grey_images_and_other_numbers_of_channels(tmp_path):
    np.save(tmp_path / "grey.npy", PIXELS[..., 0])
    assert build(tmp_path / "grey.npy").images(torch.tensor([0])).shape == (1, 1, 6, 7)
    np.save(tmp_path / "seven.npy", PIXELS)
    seven = build(tmp_path / "seven.npy", layout="NCHW", test_share=0.5)
    assert (seven.channels, seven.size) == (6, (7, 3))
    assert seven.images(torch.tensor([0])).shape == (1, 6, 7, 3)


def test_labels_are_numbers_or_text(plain, tmp_path):
    shades = np.arange(60) % 3
    np.save(
        tmp_path / "images.npy", np.repeat(shades + np.arange(60) * 4, 16).astype(np.uint8).reshape(60, 4, 4)
    )
    np.save(tmp_path / "labels.npy", shades.astype(np.int16))
    numbers = build(tmp_path / "images.npy", labels=tmp_path / "labels.npy")
    (tmp_path / "labels.txt").write_text("".join(f"class {'cab'[shade]}\n" for shade in shades))
    text = build(tmp_path / "images.npy", labels=tmp_path / "labels.txt")
    assert text.class_names == ("class a", "class b", "class c")
    assert not isinstance(numbers, HasClassNames) and isinstance(numbers, HasLabels)
    for name in text.splits:
        split = text.split(name)
        shade = split.images(torch.arange(len(split)))[:, 0, 0, 0] % 4
        assert [split.class_names[label] for label in split.labels] == [f"class {'cab'[i]}" for i in shade]
        assert torch.equal(numbers.split(name).labels, shade.long())
    assert text.fingerprint != numbers.fingerprint != build(tmp_path / "images.npy").fingerprint


def test_the_test_split_may_lie_in_a_file_of_its_own(tmp_path, caplog):
    np.save(tmp_path / "train.npy", PIXELS[:40])
    np.save(tmp_path / "test.npy", PIXELS[40:])
    for name, count, classes in (("train", 40, "ab"), ("test", 20, "bc")):
        (tmp_path / f"{name}.txt").write_text("\n".join(classes[index % 2] for index in range(count)))
    given = {"test": tmp_path / "test.npy", "labels": tmp_path / "train.txt"}
    train = build(tmp_path / "train.npy", **given, test_labels=tmp_path / "test.txt", limit=15)
    assert len(train) == len(train.split("test")) == 15 and train.class_names == ("a", "b", "c")
    assert everything(train)[1][0] == PIXELS[40].transpose(2, 0, 1).tobytes()
    assert train.labels[:2].tolist() == [0, 1] and train.split("test").labels[:2].tolist() == [1, 2]
    with pytest.raises(MistakeError, match="test_labels: to be given with labels and test"):
        build(tmp_path / "train.npy", **given)
    np.save(tmp_path / "test.npy", PIXELS[35:])
    copied = build(tmp_path / "train.npy", test=tmp_path / "test.npy")
    assert (train.duplicates.exact, copied.duplicates.exact) == (0, 5)
    assert "test.npy: 5 test images have the very content of a training image" in caplog.text
    np.save(tmp_path / "test.npy", PIXELS[40:, :5])
    with pytest.raises(MistakeError, match=r"test: its images are \(3, 5, 7\), the others \(3, 6, 7\)"):
        build(tmp_path / "train.npy", test=tmp_path / "test.npy")


def nan(values):
    values[3, 2, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (PIXELS.astype(np.float32), {}, r"is of float32: say which .* range = \[0, 1\] or \[-1, 1\]"),
        (PIXELS.astype(np.uint16), {}, r"is of uint16: .* range = \[0, 65535\]"),
        (PIXELS.astype(np.float32), {"range": (0, 1)}, "has values from 0 to 255, range says 0 to 1: give"),
        (nan(PIXELS / 255), {"range": (0, 1)}, "has values from nan to nan"),
        (PIXELS, {"range": (1, 0)}, r"range: \[1(.0)?, 0(.0)?\] does not go from a number to a larger one"),
        (PIXELS[:, :3, :, :], {}, r"is \[60, 3, 7, 3\]: say whether its layout is 'NHWC' or 'NCHW'"),
        (np.zeros((5, 9, 9, 9), np.uint8), {}, r"is \[5, 9, 9, 9\]: say whether its layout"),
        (PIXELS[0, 0], {}, r"is \[7, 3\]: images are \[N, H, W\], "),
        (PIXELS[:0], {}, r"is \[0, 6, 7, 3\]: images are"),
        (PIXELS, {"layout": "NHW"}, r"layout: NHW, and .* is \[60, 6, 7, 3\]"),
        (PIXELS[[0, 0]], {}, "has 2 usable images, which have one content"),
        (np.array([{}]), {}, "is no array that can be read"),
        (np.array(["a"]), {}, "which are no numbers"),
    ],
)
def test_what_is_not_clear_or_not_whole_is_refused(tmp_path, values, options, said):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(MistakeError, match=said):
        build(tmp_path / "a.npy", **options)


@pytest.mark.parametrize("way", ["cut", "empty folder", "mixed", "no member", "which member", "text"])
def test_files_that_are_not_what_is_wanted_are_refused(tmp_path, way):
    place, said, options = tmp_path / "a.npy", "is no array that can be read", {}
    if way == "cut":
        np.save(place, PIXELS)
        place.write_bytes(place.read_bytes()[:-1])
    elif way == "empty folder":
        place, said = tmp_path, "has no .npy files"
    elif way == "mixed":
        np.save(tmp_path / "a.npy", PIXELS)
        np.save(tmp_path / "b.npy", PIXELS[:, :5])
        place, said = tmp_path, "arrays of one folder are alike but for their number"
    elif way in ("no member", "which member"):
        place = tmp_path / "a.npz"
        np.savez(place, x=PIXELS, y=PIXELS)
        options = {"member": "z"} if way == "no member" else {}
        said = "has no array z; it has x, y" if options else "member is one of x, y"
    else:
        place.write_text("no array")
    with pytest.raises(MistakeError, match=said):
        build(place, **options)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.txt", "a\n\nb\n", "line 2 is empty"),
        ("l.txt", "a\nb\n", "has 2 labels, and there are 60 images"),
        ("l.npy", np.arange(60) - 1, "are no whole numbers"),
        ("l.npy", np.arange(60.0), "are no whole numbers"),
        ("l.npy", np.array([{}] * 60), "cannot be read"),
    ],
)
def test_labels_that_are_none_are_refused(plain, tmp_path, name, content, said):
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(MistakeError, match=said):
        build(tmp_path / "plain.npy", labels=tmp_path / name)


def test_the_shape_is_known_by_the_head_alone(plain, tmp_path):
    recipe = Recipe.from_dict({"uldm": 1, "dataset": {"use": "arrays", "root": str(tmp_path / "plain.npy")}})
    known = stand_in(recipe.resolve().components["dataset"])
    assert (known.channels, known.size) == (3, (6, 7))
    (tmp_path / "plain.npy").unlink()
    with pytest.raises(NotImplementedError, match="there is no file or folder"):
        stand_in(recipe.resolve(data=False).components["dataset"])
    assert Arrays.splits == known.splits
