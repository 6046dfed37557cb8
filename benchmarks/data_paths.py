"""How fast images come to a training step, beside torchvision's ImageFolder and a DataLoader of two workers.

    python benchmarks/data_paths.py [ROUNDS]
    python benchmarks/data_paths.py --million [IMAGES]

Each way gives all images once a round, in batches of 64 in random order; the ways take turns, so that other
load affects all. Printed are the median images per second, and the median of the ratios to torchvision's.

``--million`` prints the memory that is held for a million images of 64 px: private memory, of what the system
cannot take back. The folder is of links to a few files; the array is a file of holes.
"""

import gc
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from uldm_core import registry

BATCH = 64
SIZE = 64
KINDS = {"PNG, 64 px": ("png", 64, 2_000), "JPEG, 256 px to 64": ("jpg", 256, 1_500)}


def drawn(folder, ending, side, count):
    """Write images that compress as photographs do: smooth, with some noise."""
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / str(index % 2) / f"{index:05}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(generator.integers(256, size=(8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + generator.integers(-8, 9, smooth.shape)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def epoch_of(dataset):
    """Return a function that gives all images of a dataset once, each batch asked for ahead if it can be."""
    ahead = getattr(dataset, "prefetch", lambda indices: None)

    def epoch():
        batches = torch.randperm(len(dataset)).split(BATCH)
        for indices, coming in zip(batches, [*batches[1:], None]):
            if coming is not None:
                ahead(coming)
            images = dataset.images(indices)
            assert images.dtype == torch.uint8
        return len(dataset)

    return epoch


def epoch_of_torchvision(folder):
    shape = transforms.Compose(
        [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.PILToTensor()]
    )
    dataset = datasets.ImageFolder(folder, shape)
    loader = DataLoader(dataset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def epoch():
        return sum(len(images) for images, _ in loader)

    return epoch


def ways(folder, place):
    def build(name, **options):
        return registry.build("dataset", name, test_share=0.001, **options)

    packed = build("image_folder", root=folder, size=SIZE)
    np.save(place / "images.npy", packed.images(torch.arange(len(packed))).permute(0, 2, 3, 1).numpy())
    return {
        "torchvision, 2 workers": epoch_of_torchvision(folder),
        "image_folder": epoch_of(packed),
        "image_folder, pack = false": epoch_of(build("image_folder", root=folder, size=SIZE, pack=False)),
        "arrays": epoch_of(build("arrays", root=place / "images.npy")),
    }


def compare(rounds):
    print("| images | way | images/s | times torchvision |\n|---|---|---|---|")
    for kind, (ending, side, count) in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            os.environ["XDG_CACHE_HOME"] = place
            given = ways(drawn(Path(place) / "images", ending, side, count), Path(place))
            rates = {name: [] for name in given}
            for _ in range(rounds + 1):
                for name, epoch in given.items():
                    began = time.perf_counter()
                    done = epoch()
                    rates[name].append(done / (time.perf_counter() - began))
            peer, *_ = (found[1:] for found in rates.values())  # the first round starts workers and pools
            for name, found in rates.items():
                times = statistics.median(one / other for one, other in zip(found[1:], peer))
                print(f"| {kind} | {name} | {statistics.median(found[1:]):,.0f} | {times:.1f} |")


def private_megabytes():
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1e3


def million(count):
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        folder = Path(place) / "folder"
        sources = sorted(drawn(Path(place) / "few", "png", SIZE, 40).rglob("*.png"))
        for index in range(count):
            if index % 1000 == 0:
                (folder / f"{index // 1000:04}").mkdir(parents=True)
            os.link(sources[index % len(sources)], folder / f"{index // 1000:04}" / f"{index % 1000:03}.png")
        shape = (count, SIZE, SIZE, 3)
        np.lib.format.open_memmap(Path(place) / "images.npy", "w+", np.uint8, shape)
        np.save(Path(place) / "test.npy", np.zeros((8, SIZE, SIZE, 3), np.uint8))
        # at 64 px the packed file would be twelve gigabytes; what is held in memory is the same
        folder_options = {"root": folder, "size": 16}
        array_options = {"root": Path(place) / "images.npy", "test": Path(place) / "test.npy"}
        print(
            "| way | images | first start, s | second start, s | private memory, MB |\n|---|---|---|---|---|"
        )
        registry.build(
            "dataset", "image_folder", root=sources[0].parent.parent, size=16
        )  # imports what it uses
        for name, options in (("image_folder", folder_options), ("arrays", array_options)):
            seconds, before, held = [], private_megabytes(), 0
            for _ in range(2):
                began = time.perf_counter()
                dataset = registry.build("dataset", name, **options)
                seconds.append(time.perf_counter() - began)
                for indices in torch.randint(len(dataset), (100, BATCH)):
                    dataset.images(indices)
                held = max(held, private_megabytes() - before)
                del dataset
            print(f"| `{name}` | {count:,} | {seconds[0]:.0f} | {seconds[1]:.0f} | {held:.0f} |", flush=True)


if sys.argv[1:2] == ["--million"]:
    million(int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000)
else:
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
