"""What each part of a recipe is worth: recipes/mnist_latent.toml, with one thing changed after the other.

Run ``python benchmarks/ablations.py --seeds 3 --write`` to train and measure every row, and to write the
table into docs/ablations.md; with the names of rows if not all are wanted (``--list`` prints them). Rows of
one seed share a run's folder, so that each trains only what no row before it has trained: the autoencoder
once, and nothing where guidance or sampler alone differ. Stopped, it resumes; what was measured is kept in
the folder of the runs, and in the table, so that rows can be done one by one. ``--quick`` does all of it with
few steps and tiny networks: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from uldm_core import registry
from uldm_core.engine.run import run
from uldm_core.protocols import ComparesWithUnseen, HasReference, Metric
from uldm_core.recipe import Recipe
from uldm_core.run_folder.files import digest_of, read_json, write_json, write_text
from uldm_core.run_folder.folder import RunFolder
from uldm_plugins.shared.images import in_batches
from uldm_plugins.stages.evaluate import measure
from uldm_plugins.stages.latents import image_batches
from uldm_plugins.stages.sample import load_images

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "mnist_latent.toml"
PAGE = ROOT / "docs" / "ablations.md"
BEGIN, END = "<!-- ablations: begin -->\n", "<!-- ablations: end -->\n"
"""The lines of the page between which the table is written."""

Changes = Mapping[str, Any]
AS_IT_IS = "the recipe as it is"
CLEARED = ("condition", "guidance", "coupling", "held_out", "ema", "ema_std", "ema_stds")
"""Components, and options of stages, that the recipe may have and the other rows are without."""


def clusters(classes: int) -> Changes:
    """Return the change that tells the denoiser a cluster."""
    return {"condition": {"use": "clusters", "classes": classes}}


def guided(use: str, weight: float) -> Changes:
    """Return the change that guides samples."""
    return {"guidance": {"use": use, "weight": weight}}


def drawn(use: str, steps: int, spacing: str = "linspace") -> Changes:
    """Return the change of the sampler."""
    return {"sampler": {"use": use, "steps": steps, "spacing": spacing}}


GUIDED = {**clusters(400), **guided("auto", 2.0)}
ROWS: dict[str, Changes] = {
    AS_IT_IS: {},
    "plain": {},
    "plain, auto 2": guided("auto", 2.0),
    "100 clusters": clusters(100),
    "100 clusters, auto 2": {**clusters(100), **guided("auto", 2.0)},
    "400 clusters": clusters(400),
    "400 clusters, auto 1.5": {**clusters(400), **guided("auto", 1.5)},
    "400 clusters, auto 2": GUIDED,
    "400 clusters, auto 3": {**clusters(400), **guided("auto", 3.0)},
    "400 clusters, classifier_free 1.25": {**clusters(400), **guided("classifier_free", 1.25)},
    "400 clusters, classifier_free 1.5": {**clusters(400), **guided("classifier_free", 1.5)},
    "400 clusters, heun 10": {**clusters(400), **drawn("heun", 10)},
    "400 clusters, auto 2, heun 10": {**GUIDED, **drawn("heun", 10)},
    "400 clusters, euler 4": {**clusters(400), **drawn("euler", 4)},
    "400 clusters, dpmpp_2m 4": {**clusters(400), **drawn("dpmpp_2m", 4)},
    "400 clusters, dpmpp_2m 4 karras": {**clusters(400), **drawn("dpmpp_2m", 4, "karras")},
    "400 clusters, dpmpp_3m 8 karras": {**clusters(400), **drawn("dpmpp_3m", 8, "karras")},
    "plain, minibatch_ot": {"coupling": {"use": "minibatch_ot"}},
    "plain, minibatch_ot, euler 4": {**drawn("euler", 4), "coupling": {"use": "minibatch_ot"}},
    "400 clusters, post-hoc average": {
        **clusters(400),
        "stages.second.ema": "post_hoc",
        "stages.second.held_out": 0.05,
    },
    "400 clusters, adversarial weight 0.03": {
        **clusters(400),
        "stages.first.adversarial.weight": 0.03,
    },
    "400 clusters, auto 2, adversarial weight 0.03": {**GUIDED, "stages.first.adversarial.weight": 0.03},
    "400 clusters, auto 2, codes with noise up to 0.2": {**GUIDED, "autoencoder.quantizer.noise": 0.2},
}
"""What each row changes, by tables and options; those that train alike stand together."""

QUICK: Changes = {
    "dataset.limit": 500,
    "autoencoder.encoder_channels": [4, 8, 8],
    "autoencoder.decoder_channels": [4, 8, 8],
    "autoencoder.quantizer.codebook_size": 16,
    "denoiser.width": 16,
    "denoiser.hidden": 16,
    "stages.first.steps": 2,
    "stages.first.batch_size": 8,
    "stages.first.losses": [{"use": "l1"}],
    "stages.second.steps": 4,
    "stages.second.batch_size": 16,
    "stages.second.previews": 0,
    "stages.samples.count": 20,
    "run.precision": "float32",
}
METRICS = (
    {"use": "frechet_mnist"},
    {"use": "precision_recall", "backbone": "mnist_judge", "count": 5000},
    {"use": "density_coverage", "backbone": "mnist_judge", "count": 5000},
    {"use": "nearest_neighbour", "count": 2000},
)
NUMBERS = {
    "frechet_mnist": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "copies": "copies",
}
RESULTS = "results.json"
CALLS = "denoiser_calls_per_image"
STAGES = {
    "train_autoencoder": "autoencoder",
    "train_diffusion": "denoiser",
    "tune": "tune",
    "sample": "sampling",
}


def recipe(row: str, seed: int, quick: bool = False) -> Recipe:
    """Return the recipe of a row: the stages that train, tune and draw, with the row's changes."""
    tables, changes = Recipe.load(RECIPE).to_dict(), {**ROWS[row], **(QUICK if quick else {}), "seed": seed}
    wanted = STAGES if row == AS_IT_IS else STAGES.keys() - {"tune"}
    tables["stages"] = {name: stage for name, stage in tables["stages"].items() if stage["use"] in wanted}
    cleared = () if row == AS_IT_IS else (*CLEARED, *(["sampler"] if "sampler" in changes else []))
    for table in (tables, *tables["stages"].values()):
        for name in cleared:
            table.pop(name, None)
    for key, value in changes.items():
        _set(tables, key.split("."), deepcopy(value))
    if quick and "condition" in tables:
        tables["condition"]["classes"] = 10
    return Recipe.from_dict(tables, row)


def _set(tables: dict[str, Any], key: Sequence[str], value: Any) -> None:
    for name in key[:-1]:
        tables = tables.setdefault(name, {})
    tables[key[-1]] = value


@frozen
class Result:
    """What a row came to with one seed.

    Args:
        numbers: of the metrics, and how often the denoiser is called for an image.
        seconds: of each stage, by what it makes.
        machine: that it was done on.
    """

    numbers: Mapping[str, float]
    seconds: Mapping[str, float]
    machine: str


def result(row: str, seed: int, work: Path, metrics: Sequence[Metric], quick: bool = False) -> Result:
    """Train what is not trained yet of a row, draw, and measure against the test split."""
    wanted = recipe(row, seed, quick)
    folder = RunFolder(run(wanted, out=work / f"seed_{seed}"))
    numbers, seconds = {}, {}
    for name, stage in wanted.to_dict()["stages"].items():
        record = folder.stage(name).record()
        seconds[STAGES[stage["use"]]] = record.seconds if record else 0.0
        if record and stage["use"] == "sample":
            images = load_images(folder.stage(name).artifact("samples.npz"))
            numbers = {**measure(metrics, in_batches(images)), CALLS: record.summary[CALLS]}
    found = read_json(folder.file("environment.json"), dict) or {}
    machine = "{threads} threads of {cpu}, {precision}, torch {torch}".format_map(found)
    return Result(numbers, seconds, machine)


def kept_results(work: Path) -> dict[str, dict[str, Any]]:
    """Return what was measured before: by row, seed and recipe."""
    return read_json(work / RESULTS, dict) or {}


def measured(row: str, seed: int, work: Path, metrics: Sequence[Metric], quick: bool) -> None:
    """Do a row with a seed, and keep what it comes to, unless that is there already."""
    kept, made_of = kept_results(work), digest_of(recipe(row, seed, quick).resolve().to_toml().encode())
    if kept.get(row, {}).get(str(seed), {}).get("recipe") != made_of:
        found = asdict(result(row, seed, work, metrics, quick))
        kept.setdefault(row, {})[str(seed)] = {"recipe": made_of, "result": found}
        write_json(work / RESULTS, kept)


def ready_metrics(quick: bool = False) -> list[Metric]:
    """Return the metrics, which have read the real images that they compare with."""
    train = registry.build("dataset", "mnist", **({"limit": QUICK["dataset.limit"]} if quick else {}))
    test, found = train.split("test"), []
    for spec in METRICS:
        metric = registry.build("metric", spec["use"], **{k: v for k, v in spec.items() if k != "use"})
        of_training = isinstance(metric, HasReference) and metric.reference == "train"
        for batch in image_batches(train if of_training else test):
            metric.update(batch, real=True)
        for batch in image_batches(test) if isinstance(metric, ComparesWithUnseen) else ():
            metric.update_unseen(batch)
        found.append(metric)
    return found


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Return the table in Markdown: means, and of several seeds the least and the greatest."""
    stages = [
        name for name in STAGES.values() if any(name in of.seconds for row in results.values() for of in row)
    ]
    head = ["row", "seeds", "calls", *NUMBERS.values(), *(f"{name}, s" for name in stages)]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, row in results.items():
        numbers = [
            _spread([of.numbers[number] for of in row], 2 if number == "frechet_mnist" else 3)
            for number in NUMBERS
        ]
        seconds = [_mean([of.seconds.get(stage) for of in row]) for stage in stages]
        calls = _mean([of.numbers[CALLS] for of in row])
        lines.append(_line([name, str(len(row)), calls, *numbers, *seconds]))
    machines = sorted({of.machine for row in results.values() for of in row})
    return "\n".join([f"On {'; '.join(machines)}.", "", *lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.0f}" if known else ""


def _spread(values: Sequence[float], digits: int) -> str:
    low, mean, high = (f"{value:.{digits}f}" for value in (min(values), statistics.mean(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def write_table(text: str, page: Path) -> None:
    """Put a table in the place of the one in a page.

    Raises:
        ValueError: the page has not the two lines between which it belongs.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no lines {BEGIN.strip()} and {END.strip()}")
    write_text(page, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the rows, print the table of all that was measured, and write it if that is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all by default")
    parser.add_argument("--list", action="store_true", help="print the rows")
    parser.add_argument("--seeds", type=int, default=1, help="how often to do each row")
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"), help="the folder of the runs")
    parser.add_argument("--quick", action="store_true", help="few steps: whether it works")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.rows) - ROWS.keys()):
        parser.error(f"no such row: {', '.join(unknown)}; --list prints them")
    if given.list:
        print("\n".join(ROWS))
        return
    rows = given.rows or [*ROWS]
    metrics = ready_metrics(given.quick)
    for seed in range(given.seeds):
        for row in rows:
            measured(row, seed, given.work, metrics, given.quick)
            print(f"{row}, seed {seed}", file=sys.stderr, flush=True)
    kept = kept_results(given.work)
    results = {row: [Result(**seed["result"]) for seed in kept[row].values()] for row in ROWS if row in kept}
    print(table(results))
    if given.write:
        write_table(table(results), PAGE)


if __name__ == "__main__":
    main()
