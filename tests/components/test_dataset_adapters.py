"""Images of Hugging Face's datasets and of webdataset's shards: the same images as those of a folder."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from uldm_core.errors import OptionError, UnavailableError
from uldm_plugins.adapters.hf_datasets.hf_dataset import HFDataset
from uldm_plugins.adapters.webdataset.shards import WebDataset
from uldm_plugins.datasets.image_folder import ImageFolder

COUNT = 24


def encoded(index, ending="PNG"):
    pixels = np.random.default_rng(index).integers(256, size=(10, 14, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, ending)
    return content.getvalue()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    for index in range(COUNT):
        (place / f"{index:02}.png").write_bytes(encoded(index))
    return ImageFolder(place, size=(8, 12))


def table(**columns):
    features = {"image": datasets.Image(), "kind": datasets.ClassLabel(names=["even", "odd"])}
    rows = {
        "image": [{"bytes": encoded(index), "path": None} for index in range(COUNT)],
        "kind": [index % 2 for index in range(COUNT)],
        **columns,
    }
    return datasets.Dataset.from_dict(
        rows,
        datasets.Features(features | {name: datasets.Value("string") for name in columns if name != "image"}),
    )


@pytest.fixture
def saved(tmp_path):
    def save(name="saved", **columns):
        table(**columns).save_to_disk(str(tmp_path / name))
        return str(tmp_path / name)

    return save


def write_shards(place, samples, each=10):
    place.mkdir()
    for start in range(0, len(samples), each):
        with tarfile.open(place / f"shard-{start:03}.tar", "w") as shard:
            for number, sample in enumerate(samples[start : start + each], start):
                for ending, content in sample.items():
                    entry = tarfile.TarInfo(f"{number:04}.{ending}")
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
    return place


def shards(place, **others):
    samples = [{"png": encoded(index), "cls": str(index % 2).encode()} for index in range(COUNT)]
    for index, sample in others.items():
        samples[int(index[1:])] = sample
    return write_shards(place, samples)


def everything(dataset):
    splits = [dataset.split(name) for name in dataset.splits]
    return [split.images(torch.arange(len(split))) for split in splits]


def test_images_of_any_source_are_those_of_a_folder(folder, saved, tmp_path):
    wanted = everything(folder)
    of_hub = HFDataset(saved(), label="kind", size=(8, 12))
    of_shards = WebDataset(shards(tmp_path / "shards"), label="cls", size=(8, 12))
    for dataset in (of_hub, of_shards):
        assert all(map(torch.equal, everything(dataset), wanted))
        assert not dataset.left_out
        numbers = [int(path.stem) % 2 for path in folder.split("test").paths]
        assert dataset.split("test").labels.tolist() == numbers
    assert of_hub.class_names == ("even", "odd") and of_hub.fingerprint == of_shards.fingerprint
    unlabelled = HFDataset(saved("again"), size=(8, 12))
    assert (
        unlabelled.fingerprint
        == folder.fingerprint
        == WebDataset(tmp_path / "shards", size=(8, 12)).fingerprint
    )
    again = HFDataset(saved("moved"), label="kind", size=(8, 12))
    assert again.fingerprint == of_hub.fingerprint


def test_what_cannot_be_decoded_is_left_out(saved, tmp_path, caplog):
    cells = [{"bytes": encoded(index), "path": None} for index in range(COUNT)]
    cells[3], cells[5] = {"bytes": b"no image", "path": None}, None
    of_hub = HFDataset(saved(image=cells), size=8)
    of_shards = WebDataset(shards(tmp_path / "shards", _3={"png": b"no image", "cls": b"1"}), size=8)
    for dataset, count in ((of_hub, 22), (of_shards, 23)):
        assert sum(len(dataset.split(name)) for name in dataset.splits) == count
        assert len(dataset.left_out) == COUNT - count
    assert "2 of 24 images cannot be decoded: those of number 3, 5" in caplog.text


def test_columns_of_text_are_classes_and_splits_may_be_given(tmp_path):
    names = [["cat", "dog"][index % 2] for index in range(COUNT)]
    both = datasets.DatasetDict({"train": table(word=names), "held": table(word=names[::-1])})
    both.save_to_disk(str(tmp_path / "both"))
    train = HFDataset(str(tmp_path / "both"), label="word", test_split="held", size=8, limit=20)
    assert len(train) == len(train.split("test")) == 20 and train.class_names == ("cat", "dog")
    assert train.labels[:2].tolist() == [0, 1] and train.split("test").labels[:2].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": "images"}, "has no column 'images'.* it has image, kind, note"),
        ({"image": "kind"}, "the column 'kind' of .* holds no images"),
        ({"train_split": "test"}, "has no split 'test'; it has train"),
        ({"label": "note"}, "holds neither text nor whole numbers"),
    ],
)
def test_what_a_table_does_not_have_is_refused(saved, options, said):
    with pytest.raises(OptionError, match=said):
        HFDataset(saved(note=[None] * COUNT), **options)


def test_a_dataset_that_cannot_be_fetched_is_said(monkeypatch):
    def refuse(*args, **options):
        raise ConnectionError("Couldn't reach the hub\nat all")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UnavailableError, match=r"some/name cannot be loaded: Couldn't reach the hub$"):
        HFDataset("some/name")


@pytest.mark.parametrize(
    ("sample", "options", "said"),
    [
        ({"txt": b"a"}, {}, "no image in the sample .*0003, which has: txt"),
        ({"png": b""}, {"image": "jpg"}, "no image in the sample .*0000, which has: png, cls"),
        ({"png": b"", "cls": b"-1"}, {"label": "cls"}, "sample .*0003 has no whole number from 0 on in cls"),
        ({"png": b"", "cls": b"0"}, {"label": "json.kind"}, "has no whole number from 0 on in json.kind"),
    ],
)
def test_samples_that_lack_something_are_refused(tmp_path, sample, options, said):
    with pytest.raises(OptionError, match=said):
        WebDataset(shards(tmp_path / "shards", _3=sample), **options)


def test_shards_of_other_endings_and_damaged_ones(tmp_path):
    samples = [
        {"jpg": encoded(index, "JPEG"), "json": json.dumps({"kind": index % 3}).encode()}
        for index in range(12)
    ]
    place = write_shards(tmp_path / "shards", samples)
    train = WebDataset(place / "shard-000.tar", label="json.kind", test=place / "shard-010.tar", size=8)
    assert (len(train), len(train.split("test"))) == (10, 2)
    assert train.labels[:4].tolist() == [0, 1, 2, 0] and train.split("test").labels.tolist() == [1, 2]
    (place / "shard-000.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(OptionError, match="shards cannot be read"):
        WebDataset(place, size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"empty has no \.tar files"):
        WebDataset(tmp_path / "empty")
