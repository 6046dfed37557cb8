"""Latents that are kept: encoded once, of nothing but what they say, and of each augmented variant."""

import numpy as np
import pytest
import torch
from attrs import define, field

from uldm_core import MistakeError, RunError, registry, run_stage
from uldm_core.engine.context import Context
from uldm_core.engine.device import Device
from uldm_core.engine.progress import Silent
from uldm_core.engine.signals import Interrupted
from uldm_core.run_folder.stage_folder import StageFolder
from uldm_core.testing.doubles import (
    RecordingDataset,
    TinyAutoencoder,
    TinyDenoiser,
    TinyScaling,
    components,
)
from uldm_plugins.shared import cache
from uldm_plugins.stages import kept_latents, latents
from uldm_plugins.stages.latents import NormalizedLatents, encode

COUNT, PROBE = 29, 5
INDICES = torch.tensor([28, 3, 3, 0, 17])


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Keep latents of any number of images; encode five at a time."""
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(kept_latents, "FEW_PIXELS", 0)
    monkeypatch.setattr("uldm_plugins.shared.images.MOST_IMAGES", PROBE)
    return tmp_path / "cache" / "packed"


class Messages(Silent):
    """Collects what is shown."""

    def __init__(self, messages):
        self.message = messages.append


@define(slots=False)
class Case:
    """A training's latents, and how many images were read for them."""

    tmp_path: object
    seed: int = 0
    dataset: RecordingDataset = field(factory=RecordingDataset)
    messages: list[str] = field(factory=list)
    precision: torch.dtype = torch.float32

    def latents(self, autoencoder=None, scaling=None, cached=True, context=Context, **options):
        self.dataset.asked.clear()
        place = StageFolder(self.tmp_path / "stages" / "s")
        device = Device(torch.device("cpu"), self.precision)
        context = context("s", self.seed, device, place, reporter=Messages(self.messages))
        autoencoder = autoencoder or tiny_autoencoder()
        found = NormalizedLatents(self.dataset, autoencoder, scaling or TinyScaling(), context, **options)
        found.fit(cached=cached)
        return found


def tiny_autoencoder(seed=0):
    torch.manual_seed(seed)
    return TinyAutoencoder().eval()


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def entries(folder):
    return sorted(folder.glob("*.npy"))


def test_kept_in_memory_or_on_the_disk_latents_are_the_same_bit_for_bit(case, folder, monkeypatch):
    from_disk = case.latents()
    assert len(entries(folder)) == 1 and from_disk.held
    monkeypatch.setattr(latents, "MOST_HELD", 0)
    mapped = case.latents()
    assert not mapped.held and not isinstance(mapped.kept[0].values, torch.Tensor)
    monkeypatch.setattr(kept_latents, "FEW_PIXELS", 1 << 30)
    in_memory, not_kept = case.latents(), case.latents(cached=False)
    assert isinstance(in_memory.kept[0].values, torch.Tensor) and len(entries(folder)) == 1
    for each in (mapped, in_memory, not_kept):
        assert torch.equal(each.of(INDICES), from_disk.of(INDICES))
        assert torch.equal(torch.cat([*each.all()]), torch.cat([*from_disk.all()]))
        assert [len(batch) for batch in each.all()] == [len(batch) for batch in from_disk.all()]
        assert torch.equal(each.scaling.std, from_disk.scaling.std)


def test_a_training_is_the_same_bit_for_bit_wherever_its_latents_are(tmp_path, monkeypatch):
    found = []
    for few, held in ((1 << 30, 1 << 30), (0, 1 << 30), (0, 0)):
        monkeypatch.setattr(kept_latents, "FEW_PIXELS", few)
        monkeypatch.setattr(latents, "MOST_HELD", held)
        found.append(weights(trained(tmp_path)["denoiser"]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_run_that_finds_its_latents_encodes_a_few_images_to_know_them(case, folder):
    first = case.latents()
    assert len(case.dataset.asked) == PROBE + COUNT
    again = case.latents()
    assert case.dataset.asked == list(range(PROBE)) and len(entries(folder)) == 1
    assert torch.equal(again.of(INDICES), first.of(INDICES))


class _Stopping(Context):
    """Is stopped after two batches."""

    def advance(self, done):
        if done == 2 * PROBE:
            raise Interrupted


def test_an_encoding_that_was_stopped_is_continued(case, folder, monkeypatch):
    with pytest.raises(Interrupted):
        case.latents(context=_Stopping)
    assert not entries(folder)
    resumed = case.latents()
    assert case.dataset.asked == [*range(PROBE), *range(2 * PROBE, COUNT)]
    monkeypatch.setattr(kept_latents, "FEW_PIXELS", 1 << 30)
    assert torch.equal(resumed.of(INDICES), case.latents().of(INDICES))


def other_weights(case):
    return {"autoencoder": tiny_autoencoder(1)}


def one_weight_that_changes_nothing_in_the_first_images(case):
    autoencoder = tiny_autoencoder()
    with torch.no_grad():
        autoencoder.decoder.bias.add_(1e-3)
    return {"autoencoder": autoencoder}


def an_option_of_the_autoencoder(case):
    autoencoder, plain = tiny_autoencoder(), TinyAutoencoder.encode
    autoencoder.encode = lambda x: (2 * plain(autoencoder, x)[0], {})
    return {"autoencoder": autoencoder}


class Brighter(TinyAutoencoder):
    """Is another class, whose option changes nothing in images that are not bright."""

    def __init__(self, limit=2.0):
        super().__init__()
        self.limit = limit


def another_class(case):
    torch.manual_seed(0)
    return {"autoencoder": Brighter().eval()}


def other_images(case):
    case.dataset = RecordingDataset()
    case.dataset.fingerprint += " changed"
    return {}


def another_precision(case):
    case.precision = torch.bfloat16
    return {}


def half_the_bytes(case):
    return {"dtype": torch.float16}


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        one_weight_that_changes_nothing_in_the_first_images,
        an_option_of_the_autoencoder,
        another_class,
        other_images,
        another_precision,
        half_the_bytes,
    ],
)
def test_latents_of_something_else_are_never_used(change, case, folder):
    case.latents()
    case.latents(**change(case))
    assert len(case.dataset.asked) == PROBE + COUNT and len(entries(folder)) == 2


def test_an_option_that_shows_in_few_images_counts(case, folder):
    for limit in (2.0, 2.0, 3.0):
        torch.manual_seed(0)
        case.latents(Brighter(limit).eval())
    assert len(entries(folder)) == 2


def test_code_counts(case, folder, monkeypatch):
    case.latents()
    monkeypatch.setattr(kept_latents, "code_of", lambda classes: sorted(each.__name__ for each in classes))
    case.latents(), case.latents()
    assert len(entries(folder)) == 2


@pytest.mark.parametrize("damage", ["a bit", "the end", "all"])
def test_a_damaged_file_is_never_used(damage, case, folder):
    wanted = case.latents().of(INDICES)
    (path,) = entries(folder)
    data = bytearray(path.read_bytes())
    data[-150] ^= 1
    path.write_bytes({"a bit": data, "the end": data[:-1], "all": b""}[damage])
    assert torch.equal(case.latents().of(INDICES), wanted)
    assert len(case.dataset.asked) == PROBE + COUNT


def test_images_without_a_fingerprint_are_encoded_anew(case, folder):
    case.dataset.fingerprint = ""
    case.latents()
    assert not folder.exists() and len(case.dataset.asked) == PROBE + COUNT


def test_without_a_cache_folder_latents_are_kept_in_memory(case, folder, monkeypatch):
    wanted = case.latents().of(INDICES)
    folder.parent.rename(folder.parent.with_name("moved"))
    folder.parent.write_text("a file")
    assert torch.equal(case.latents().of(INDICES), wanted)
    (message,) = case.messages
    assert message.startswith("latents are kept in memory, for this run only: ") and str(folder) in message
    monkeypatch.setattr(kept_latents, "memory_of", lambda device: 2 * wanted.nbytes // len(wanted) * COUNT)
    case.latents()
    monkeypatch.setattr(kept_latents, "memory_of", lambda device: wanted.nbytes)
    with pytest.raises(RunError, match=f"latents of {COUNT * 2 * 16 * 4:,} bytes do not fit into memory"):
        case.latents()


def test_too_small_a_disk_is_found_before_anything_is_encoded(case, folder, monkeypatch):
    monkeypatch.setattr(cache, "free_bytes", lambda path: 100)
    case.latents()
    assert "are needed, 100 are free" in case.messages[0] and not entries(folder)


def test_float16_takes_half_the_bytes_and_is_the_same_in_memory(case, folder, monkeypatch):
    whole, half = case.latents().of(INDICES), case.latents(dtype=torch.float16)
    assert {np.load(path).dtype.name for path in entries(folder)} == {"float32", "float16"}
    torch.testing.assert_close(half.of(INDICES), whole, rtol=2e-3, atol=2e-3)
    assert half.of(INDICES).dtype == torch.float32 and not torch.equal(half.of(INDICES), whole)
    monkeypatch.setattr(kept_latents, "FEW_PIXELS", 1 << 30)
    assert torch.equal(case.latents(dtype=torch.float16).of(INDICES), half.of(INDICES))


def test_latents_beyond_float16_are_refused(case):
    autoencoder, plain = tiny_autoencoder(), TinyAutoencoder.encode
    autoencoder.encode = lambda x: (1e6 * plain(autoencoder, x)[0], {})
    with pytest.raises(MistakeError, match="are beyond float16"):
        case.latents(autoencoder, dtype=torch.float16)


def build(use, **options):
    return registry.build("augmentation", use, **options)


def test_each_variant_of_few_is_an_entry_of_its_own(case, folder):
    plain = case.latents()
    flip = build("flip", vertical=True, leaks=False)
    flipped = case.latents(augmentation=flip)
    assert len(entries(folder)) == 4  # the images as they are were there
    assert torch.equal(flipped.of(INDICES), plain.of(INDICES))
    assert torch.equal(flipped.scaling.std, plain.scaling.std)
    seen = set()
    for step in range(12):
        found, parameters = flipped.augmented(INDICES, step)
        images = flip(case.dataset.images(INDICES), parameters)
        wanted = plain.scaling.normalize(encode(images, flipped.autoencoder, flipped.context))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
        seen |= {tuple(row) for row in parameters.tolist()}
        again, same = flipped.augmented(INDICES, step)
        assert torch.equal(again, found) and torch.equal(same, parameters)
    assert len(seen) == 4


def test_a_denoiser_is_not_given_what_leaks(case):
    leaking = case.latents(augmentation=build("flip"))
    assert leaking.augmented(INDICES, 0)[1] is None
    assert case.latents().augmented(INDICES, 0)[1] is None


def test_of_many_variants_some_are_drawn_and_kept(case, folder, monkeypatch):
    shift = build("translate", share=0.5, probability=0.5)
    drawn = case.latents(augmentation=shift, variants=3)
    assert len(entries(folder)) == 3 and not drawn.parameters[0].any()
    assert drawn.parameters[1:].any(2).all() and len(drawn.parameters.flatten(0, 1).unique(dim=0)) > COUNT
    found, parameters = drawn.augmented(INDICES, 5)
    images = shift(case.dataset.images(INDICES), parameters)
    wanted = drawn.scaling.normalize(encode(images, drawn.autoencoder, drawn.context))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    case.latents(augmentation=shift, variants=3)
    assert len(case.dataset.asked) == 3 * PROBE and len(entries(folder)) == 3
    case.latents(augmentation=build("translate", share=0.4, probability=0.5), variants=3)
    assert len(entries(folder)) == 5
    case.seed = 1
    case.latents(augmentation=shift, variants=3)
    assert len(entries(folder)) == 7


def test_what_is_not_kept_is_augmented_anew_in_each_step(case):
    shift = build("translate", share=0.5, probability=0.9)
    anew = case.latents(augmentation=shift, cached=False)
    (first, one), (second, other) = anew.augmented(INDICES, 0), anew.augmented(INDICES, 1)
    assert not torch.equal(one, other) and not torch.equal(first, second)
    wanted = encode(shift(case.dataset.images(INDICES), one), anew.autoencoder, anew.context)
    assert torch.equal(first, anew.scaling.normalize(wanted))


class Noted(TinyDenoiser):
    """Remembers what it is given beside latents and time."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, latents, time, *given):
        self.given.append(given)
        return super().forward(latents, time)


class Nothing:
    """Leaves images as they are, and leaks."""

    parameters, leaks = 1, True

    def draw(self, n, generator):
        return torch.rand(n, 1, generator=generator)

    def __call__(self, images, parameters):
        return images.clone()


UNUSED = {
    "train_diffusion": ("discriminator", "backbone"),
    "train_autoencoder": (
        "denoiser",
        "latent_scaling",
        "noise_scheduler",
        "backbone",
        "discriminator",
    ),
}


def trained(tmp_path, stage="train_diffusion", **options):
    """Train three steps, and return what was trained."""
    torch.manual_seed(0)
    parts = {**components(), "dataset": RecordingDataset(), "previews": 0, **options}
    given = {name: part for name, part in parts.items() if name not in UNUSED[stage]}
    run_stage(registry.build("stage", stage, **given, steps=3, batch_size=8), tmp_path)
    return parts


def weights(denoiser):
    return torch.cat([parameter.flatten() for parameter in denoiser.parameters()])


class Prefetching(RecordingDataset):
    """Remembers what it is asked for, and what of that it was asked for ahead."""

    def __init__(self, *given):
        super().__init__(*given)
        self.ahead, self.batches, self.unread = [], [], []

    def prefetch(self, indices):
        self.ahead.append(indices.tolist())
        self.unread.append(indices.tolist())

    def images(self, indices):
        self.batches.append(indices.tolist())
        if indices.tolist() in self.unread:
            self.unread.remove(indices.tolist())
        return super().images(indices)


def test_a_pass_in_order_reads_the_next_batch_ahead(case):
    case.dataset = Prefetching()
    for cached in (True, False):
        found = case.latents(cached=cached)
        list(found.all())
    list(latents.image_batches(case.dataset))
    every = [batch.tolist() for batch in latents.index_batches(case.dataset)]
    probe = every[:1]
    assert case.dataset.batches == probe + 4 * every and not case.dataset.unread
    assert case.dataset.ahead == 4 * every[1:]


def test_a_training_that_keeps_no_latents_reads_the_next_batch_ahead(tmp_path):
    dataset = Prefetching()
    trained(tmp_path, dataset=dataset, cache_latents=False)
    assert dataset.batches[-2:] == dataset.ahead[-3:-1] and dataset.unread == dataset.ahead[-1:]
    dataset = Prefetching()
    trained(tmp_path, dataset=dataset, cache_latents=True)
    assert len(dataset.batches) == 1 + 6 and len(dataset.ahead) == 5 and not dataset.unread


@pytest.mark.parametrize("cached", [True, False])
def test_other_random_numbers_of_a_training_do_not_move_with_an_augmentation(cached, tmp_path):
    options = {"cache_latents": cached}
    plain = trained(tmp_path, **options)["denoiser"]
    other = trained(tmp_path, **options, augmentation=Nothing())["denoiser"]
    assert torch.equal(weights(plain), weights(other))


def test_a_denoiser_is_given_parameters_in_training_and_none_in_samples(tmp_path):
    denoiser = Noted()
    shift = build("translate", probability=0.5)
    trained(tmp_path, denoiser=denoiser, augmentation=shift, previews=1)
    in_training = [given for given in denoiser.given if given]
    assert len(in_training) == 3 and len(denoiser.given) > 3
    for condition, parameters in in_training:
        assert condition is None and parameters.shape == (8, 2)


def test_an_autoencoder_is_trained_on_augmented_images(tmp_path):
    seen = []

    class Darkened(Nothing):
        def __call__(self, images, parameters):
            seen.append(parameters)
            return torch.zeros_like(images)

    autoencoder = TinyAutoencoder()
    given = []
    autoencoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    trained(tmp_path, "train_autoencoder", autoencoder=autoencoder, augmentation=Darkened())
    assert all(bool((images == -1).all()) for images in given) and len(given) == len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
