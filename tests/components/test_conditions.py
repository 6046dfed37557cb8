"""Conditions: k-means beside scipy's, sets too large to hold, and what cannot be fitted."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.cluster.vq import kmeans2

from uldm_core import registry
from uldm_core.engine.requirements import opened_data, requirements
from uldm_core.engine.run import run
from uldm_core.engine.run_stage import run_stage
from uldm_core.errors import MistakeError, RunError
from uldm_core.preflight.dry_build import check
from uldm_core.preflight.preflight import preflight
from uldm_core.recipe import Recipe
from uldm_core.spec.building import ComponentStore
from uldm_core.testing.doubles import components
from uldm_plugins.conditions import clusters
from uldm_plugins.conditions.clusters import first_centers, k_means, nearest


def blobs(count, kinds, dim, spread=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(kinds, dim, generator=generator)
    labels = torch.randint(kinds, (count,), generator=generator)
    return centers[labels] + spread * torch.randn(count, dim, generator=generator), labels


@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_k_means_is_scipys(iterations):
    points, _ = blobs(600, 7, 5, spread=0.8)
    start = points[:12]
    expected, _ = kmeans2(points.double().numpy(), start.double().numpy(), iter=iterations, minit="matrix")
    centers = k_means(points, start, iterations)
    np.testing.assert_allclose(centers.numpy(), expected, rtol=0, atol=1e-5)
    _, labels = kmeans2(points.double().numpy(), centers.double().numpy(), iter=1, minit="matrix")
    assert torch.equal(nearest(points, centers), torch.from_numpy(labels).long())


def test_a_center_that_loses_its_points_stays_where_it_is_as_scipys_does():
    points, start = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([[0.0], [10.0], [99.0]])
    assert k_means(points, start, 5).flatten().tolist() == [0.5, 10.5, 99.0]
    with pytest.warns(UserWarning, match="empty"):
        expected, _ = kmeans2(points.numpy(), start.numpy(), iter=5, minit="matrix")
    assert expected.flatten().tolist() == [0.5, 10.5, 99.0]


def test_the_first_centers_are_drawn_by_their_squared_distance_however_far_all_are_from_zero():
    points, _ = blobs(300, 6, 4)
    generator = torch.Generator().manual_seed(clusters.SEED)
    chosen = [int(torch.randint(300, (1,), generator=generator))]
    while len(chosen) < 9:
        distances = torch.cdist(points.double(), points[chosen].double()).square().amin(1)
        place = torch.rand((), generator=generator, dtype=torch.float64) * distances.sum()
        chosen.append(int((distances.cumsum(0) <= place).sum()))
    assert torch.equal(first_centers(points, 9), points[chosen])
    assert torch.equal(
        first_centers((points + 64).round(decimals=4), 9), (points + 64).round(decimals=4)[chosen]
    )


def test_one_point_many_times_is_one_cluster():
    condition = registry.build("condition", "clusters", classes=3)
    condition.fit([torch.ones(8, 1, 2, 2)], None)
    assert len(condition.of(torch.arange(8)).unique()) == 1


@pytest.mark.parametrize(("most", "stride"), [(clusters.MOST_VALUES, 1), (64 * 55, 2), (64 * 20, 8)])
def test_clusters_are_found_from_part_of_a_set_that_is_too_large_to_hold(most, stride, monkeypatch):
    monkeypatch.setattr(clusters, "MOST_VALUES", most)
    points, _ = blobs(100, 5, 64)
    condition, passes = registry.build("condition", "clusters", classes=5), []

    class Batches:
        def __iter__(self):
            passes.append(len(passes))
            return iter(points.view(100, 4, 4, 4).split(7))

    condition.fit(Batches(), None)
    part = torch.cat(points.split(7)[::stride])
    assert part.numel() <= most and len(passes) == (1 if stride == 1 else 2)
    expected = nearest(points, k_means(part, first_centers(part, 5), 20))
    assert torch.equal(condition.of(torch.arange(100)), expected) and len(expected.unique()) == 5


def test_clusters_of_a_backbones_features_are_of_its_last_maps_averaged():
    images = torch.randn(40, 3, 32, 32).clamp(-1, 1)
    condition = registry.build("condition", "clusters", classes=4, backbone="dummy")
    assert condition.fits_images
    condition.fit(images.split(16), None)
    with torch.no_grad():
        features = condition.backbone(images)[-1].mean((2, 3))
    plain = registry.build("condition", "clusters", classes=4)
    plain.fit([features[:, :, None, None]], None)
    assert not plain.fits_images and torch.equal(condition.assigned, plain.assigned)


@pytest.mark.parametrize(
    ("name", "options", "labels", "message"),
    [
        ("clusters", {"classes": 9}, None, "8 images are fewer than classes = 9"),
        ("labels", {"classes": 3}, None, "the dataset has no labels"),
        ("labels", {"classes": 3}, [0, 1, 2, 3], r"labels are from 0 to 3, with classes = 3"),
        ("labels", {"classes": 3}, [-1, 1, 2, 0], r"labels are from -1 to 2, with classes = 3"),
    ],
)
def test_what_cannot_be_fitted_is_said(name, options, labels, message):
    condition = registry.build("condition", name, **options)
    with pytest.raises(ValueError, match=message):
        condition.fit([torch.randn(8, 1, 2, 2)], None if labels is None else torch.tensor(labels))


def test_a_training_says_why_its_condition_cannot_be_fitted(tmp_path):
    condition = registry.build("condition", "labels", classes=1)
    names = ("dataset", "autoencoder", "denoiser", "noise_scheduler", "latent_scaling")
    parts = {name: components()[name] for name in names}
    trainer = registry.build("stage", "train_diffusion", **parts, condition=condition, steps=1)
    with pytest.raises(RunError, match=r"^condition: labels are from 0 to 1, with classes = 1$"):
        run_stage(trainer, tmp_path)


LABELLED = """
uldm = 1
[dataset]
use = "image_folder"
root = "{}"
size = 8
[autoencoder]
use = "identity"
[denoiser]
use = "mlp"
[noise_scheduler]
use = "flow"
[condition]
use = "labels"
[stages.second]
use = "train_diffusion"
"""


@pytest.mark.parametrize(
    ("classes", "said"),
    [((), "the dataset names no classes: say how many"), (("condition.classes=2",), "has no labels")],
)
def test_labels_that_are_not_there_are_found_before_the_first_step(tmp_path, classes, said):
    for number in range(3):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "x.toml").write_text(LABELLED.format(tmp_path.as_posix()))
    recipe = Recipe.load(tmp_path / "x.toml", classes)
    assert not check(recipe), "only the images tell"
    resolved = recipe.resolve()
    found = preflight(resolved)
    needed = requirements(resolved, found, resolved.stages, None, opened_data(resolved))
    assert [said in problem.what for problem in needed.problems] == [True]
    assert needed.problems[0].where.key[0] == "condition" and needed.problems[0].where.line
    with pytest.raises(MistakeError, match=said):
        run(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run/stages").exists()


def test_the_classes_are_those_that_the_dataset_names():
    tables = {"dataset": {"use": "mnist"}, "condition": {"use": "labels"}}
    resolved = Recipe.from_dict({"uldm": 1, **tables}).resolve()
    store = ComponentStore(resolved.components)
    assert store.component("condition").class_names == list("0123456789")
    assert store.component("condition").classes == 10
    assert "class_names" not in resolved.to_toml()
    tables["condition"]["classes"] = 7
    problems = check(Recipe.from_dict({"uldm": 1, **tables}))
    (wrong,) = (problem.what for problem in problems if not problem.warning)
    assert wrong == "classes = 7, and there are 10 names: leave it out"


def test_a_condition_that_is_not_fitted_draws_nothing():
    with pytest.raises(ValueError, match="not fitted"):
        registry.build("condition", "labels", classes=3).draw(1, torch.Generator())
