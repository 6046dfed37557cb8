"""Published weights: found, refused, fetched or asked for, never silently random."""

import hashlib
import urllib.error

import pytest
import torch
from safetensors.torch import save_file

from uldm_core import MistakeError, registry
from uldm_plugins.shared import pretrained


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.fixture
def offline(hub, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return hub


def published_file(hub, state, stem="squeezenet1_1"):
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(state, hub / "raw.pth")
    digest = hashlib.sha256((hub / "raw.pth").read_bytes()).hexdigest()
    return (hub / "raw.pth").rename(hub / f"{stem}-{digest[:8]}.pth")


def squeezenet_state():
    stages = registry.build("backbone", "squeezenet", weights="random").stages
    layers = [layer for stage in stages for layer in stage]
    return {
        f"features.{index}.{name}": tensor
        for index, layer in enumerate(layers)
        for name, tensor in layer.state_dict().items()
    }


@pytest.mark.parametrize("auto_download", [True, False])
def test_no_file_and_no_network_names_file_address_hash_and_place(offline, auto_download):
    with pytest.raises(MistakeError) as caught:
        registry.build("backbone", "vgg16", auto_download=auto_download)
    said = str(caught.value)
    for part in ("vgg16-397923af.pth", "https://download.pytorch.org/models/", "begins with 397923af"):
        assert part in said
    assert str(offline) in said and "'random'" in said
    assert ("auto_download is off" in said) is not auto_download


def test_auto_download_off_asks_no_network(hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("it asked"))
    with pytest.raises(MistakeError):
        registry.build("backbone", "alexnet", auto_download=False)


def test_a_file_by_hand_in_the_cache_is_used(offline):
    state = squeezenet_state()
    path = published_file(offline, state)
    built = registry.build("backbone", "squeezenet", weights_url=f"https://example.org/{path.name}")
    assert torch.equal(built.stages[0][0].weight, state["features.0.weight"])
    by_path = registry.build("backbone", "squeezenet", weights=str(path))
    assert torch.equal(by_path.stages[0][0].weight, state["features.0.weight"])


def test_a_damaged_file_is_refused(offline):
    path = published_file(offline, squeezenet_state())
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(MistakeError, match="is damaged: its hash begins with"):
        registry.build("backbone", "squeezenet", weights_url=f"https://example.org/{path.name}")


def test_it_is_fetched_once_with_the_hash_that_its_name_carries(hub, monkeypatch):
    state, asked = squeezenet_state(), []

    def fetch(address, path, begins, progress):
        asked.append((address, begins))
        torch.save(state, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(pretrained, "_sha256", lambda file: "b8a52dc0" + "0" * 56)
    for _ in range(2):
        registry.build("backbone", "squeezenet")
    assert asked == [("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth", "b8a52dc0")]


def test_weights_of_another_network_are_refused(offline):
    path = published_file(offline, {"features.0.weight": torch.zeros(1)})
    with pytest.raises(MistakeError, match=r"of another network: it has no fitting features\.0"):
        registry.build("backbone", "squeezenet", weights=str(path))


@pytest.mark.parametrize("backbone", ["squeezenet", "mnist_classifier"])
def test_files_of_weights_that_are_none_are_said_in_a_line(tmp_path, backbone):
    bad, others = tmp_path / "bad.safetensors", tmp_path / "others.safetensors"
    bad.write_bytes(bytes(40))
    save_file({"a": torch.zeros(1)}, others)
    for path, what in ((bad, "no safetensors that can be read"), (others, "of another network")):
        with pytest.raises(MistakeError, match=rf"{path.name}.*{what}"):
            registry.build("backbone", backbone, weights=path)


@pytest.mark.parametrize(
    ("content", "what"), [(b"none", "no state dict that torch reads"), ([1], "no state dict: it does not")]
)
def test_pickles_with_a_hash_that_hold_no_state_are_said_in_a_line(tmp_path, content, what):
    path = tmp_path / "a.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    path = path.rename(tmp_path / f"a-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    with pytest.raises(MistakeError, match=what):
        registry.build("backbone", "squeezenet", weights=path)


def test_an_address_without_a_hash_is_refused(offline):
    with pytest.raises(MistakeError, match="carries no hash in its name"):
        registry.build("backbone", "squeezenet", weights_url="https://example.org/weights.pth")


@pytest.mark.parametrize("name", ["vgg16", "alexnet", "squeezenet"])
def test_the_smallest_size_is_the_smallest(name):
    backbone = registry.build("backbone", name, weights="random")
    side = backbone.smallest_size
    assert backbone(torch.zeros(1, 1, side, side))[-1].shape[-1] >= 1
    with pytest.raises(ValueError, match=f"images of {side}x{side} or more, not {side}x{side - 1}"):
        backbone(torch.zeros(1, 3, side, side - 1))
    backbone.smallest_size = 1
    with pytest.raises(RuntimeError):  # torch itself cannot do it
        backbone(torch.zeros(1, 3, side - 1, side - 1))


def test_lpips_says_when_it_has_no_heads(caplog):
    loss = registry.build("loss", "lpips", backbone="dummy")
    assert "no published heads for Dummy, every channel weighs 1 / C" in caplog.text
    assert torch.allclose(loss.head_0, torch.tensor(1 / 6))
    caplog.clear()
    registry.build("loss", "lpips", backbone="dummy", heads="even")
    assert not caplog.text
    with pytest.raises(MistakeError, match="no published heads for Dummy"):
        registry.build("loss", "lpips", backbone="dummy", heads="published")
