"""What in a run deserves attention, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
from attrs import evolve
from numpy.typing import NDArray

from uldm_core.errors import MistakeError, dotted
from uldm_core.preflight.forecast import describe_adjustments
from uldm_core.recipe import Recipe
from uldm_plugins.report.curves import Curve
from uldm_plugins.report.run_reader import Classes, Codebooks, Measured, RunFiles, StageFiles
from uldm_plugins.shared.diagnostics import (
    COLLAPSED_FIX,
    Diagnostic,
    autoencoder_diagnostics,
    collapsed,
    copies_diagnostics,
    falls,
    memorisation_diagnostics,
)

SILENCE = timedelta(minutes=15)
"""A run that has written nothing for so long, and is recorded as running, was most likely killed."""
COPIED_BELOW = 1 / 3
"""A sample counts as a copy if its nearest training image is nearer than this times the second nearest.

Source: Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize".
"""
NO_CURVE = Curve(np.empty(0, np.int64), np.empty(0))
ENOUGH_FOR_FRECHET = 2000
FAR_FROM_FLOOR = 3


def diagnose(run: RunFiles, now: datetime) -> list[Diagnostic]:
    """Return what deserves attention, worst first."""
    found = [
        *_unreadable(run),
        *_ending(run, now),
        *_stale(run),
        *(diagnostic for stage in run.stages for diagnostic in _training(stage)),
        *(diagnostic for stage in run.stages for diagnostic in _adjusted(stage)),
        *_duplicates(run),
        *_codebooks(run),
        *_copies(run),
        *_classes(run),
        *_measured_by_a_loss(run),
        *_small_numbers(run),
        *_limits(run),
    ]
    return sorted(found, key=lambda diagnostic: ("bad", "worry", "note").index(diagnostic.level))


def _unreadable(run: RunFiles) -> Iterator[Diagnostic]:
    for problem in run.unreadable.problems.values():
        fix = f"{problem.hint[:1].upper()}{problem.hint[1:]}."
        yield Diagnostic("worry", f"{problem.where} is damaged: {problem.what}.", fix)


def _ending(run: RunFiles, now: datetime) -> Iterator[Diagnostic]:
    state, updated = run.state, moment(run.state.updated)
    again = "The command at the foot of this page resumes from the last checkpoint."
    if state.state == "failed":
        why = state.error.rstrip(".\n") or "no reason is recorded"
        yield Diagnostic("bad", f"The run failed: {why}.", again, "again")
    elif state.state == "stopped":
        yield Diagnostic("worry", "The run was stopped before it was done.", again, "again")
    elif run.running and updated and now - updated > SILENCE:
        yield Diagnostic(
            "bad", f"No news since {state.updated}: the run was most likely killed.", again, "again"
        )
    elif not run.running:
        for stage in run.stages:
            if stage.begun and not stage.state.done:
                yield Diagnostic("worry", f"Stage {stage.name} was begun and is not done.", again, "stages")


def _stale(run: RunFiles) -> Iterator[Diagnostic]:
    again = "The command at the foot of this page does it again."
    for stage in run.stages:
        if stage.stale:
            what = f"Stage {stage.name} is not shown: it was done {stage.stale}."
            yield Diagnostic("worry", what, again, "again")


def moment(text: str) -> datetime | None:
    """Return the moment that ISO text names, with its time zone; None if it names none."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    except (ValueError, OverflowError):  # none, or one of a year that has no time zone
        return None


def _training(stage: StageFiles) -> Iterator[Diagnostic]:
    for name, curve in stage.curves.items():
        broken = curve.steps[~np.isfinite(curve.values)]
        if len(broken):
            yield Diagnostic(
                "bad",
                f"{name} of stage {stage.name} is no number at step {broken[0]:,}.",
                "Lower the learning rate, clip the gradient (max_grad_norm), or train in float32.",
                "curves",
            )
    if "loss" in stage.curves and not falls(stage.curves["loss"].finite):
        yield Diagnostic(
            "worry",
            f"The loss of stage {stage.name} has not fallen.",
            "Try another learning rate, ten times lower or three times higher, and look at its data.",
            "curves",
        )
    held_out, trained = (stage.curves.get(name, NO_CURVE) for name in ("held_out_loss", "trained_loss"))
    if np.array_equal(held_out.steps, trained.steps):
        kept = stage.options.get("checkpoint") == "best"
        for found in memorisation_diagnostics(held_out.steps, held_out.values, trained.values, kept=kept):
            yield evolve(found, what=f"Stage {stage.name}: {found.what}.")
    for found in autoencoder_diagnostics({name: curve.finite for name, curve in stage.curves.items()}):
        yield evolve(found, what=f"Stage {stage.name}: {found.what}.", section="curves")


def _adjusted(stage: StageFiles) -> Iterator[Diagnostic]:
    for change in describe_adjustments(stage.state.adjusted):
        yield Diagnostic(
            "note",
            f"The options of stage {stage.name} were changed while it trained: {change}.",
            "The recipe has the last options only: repeated from it, the stage comes out different.",
            "stages",
        )


def _duplicates(run: RunFiles) -> Iterator[Diagnostic]:
    """Report test images that are training images as well: what they measure is memory in part."""
    for found in run.data.values():
        exact, near, of = found.duplicates.exact, found.duplicates.near, found.duplicates.compared
        if exact:
            one = "1 test image is a copy of a training image."
            what = one if exact == 1 else f"{exact:,} test images are copies of training images."
            fix = "Remove them from one of the splits: numbers against the test set flatter the samples."
            yield Diagnostic("worry", what, fix, "data")
        elif near:
            what = f"{near:,} of {of:,} test images look nearly like a training image."
            fix = "Keep such images in one split (groups): numbers against the test set flatter the samples."
            yield Diagnostic("note", what, fix, "data")


def _codebooks(run: RunFiles) -> Iterator[Diagnostic]:
    found = run.record("codebook.json", Codebooks)
    books = found.codebooks if found else []
    for number, book in enumerate(books, 1):
        which = f"Codebook {number}" if len(books) > 1 else "The codebook"
        if collapsed(book.used, book.size, book.perplexity):
            yield Diagnostic(
                "worry",
                f"{which} has collapsed: {book.used:,} of {book.size:,} codes are used, as evenly as "
                f"{book.perplexity:,.0f} equal ones.",
                COLLAPSED_FIX,
                "codebook",
            )


def copied(distance: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which samples look like copies, from distances [N, k] to their nearest training images."""
    if distance.ndim != 2 or distance.shape[1] < 2:
        return np.zeros(len(distance), bool)
    nearest = np.sort(distance, axis=1)
    return nearest[:, 0] < np.maximum(COPIED_BELOW * nearest[:, 1], 1e-6)


def are_neighbours(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether arrays are samples, the training images nearest to them, and how far these are."""
    samples, nearest, distance = (arrays.get(name) for name in ("samples", "nearest", "distance"))
    if samples is None or nearest is None or distance is None:
        return False
    images = samples.dtype == nearest.dtype == np.uint8 and samples.ndim == 4 and nearest.ndim == 5
    paired = distance.shape == nearest.shape[:2] and len(nearest) == len(samples)
    return images and paired and bool(samples.size and nearest.size) and distance.dtype.kind == "f"


def _copies(run: RunFiles) -> Iterator[Diagnostic]:
    distance = run.arrays("nearest.npz", are_neighbours).get("distance", np.empty((0, 0)))
    copies = int(copied(distance).sum())
    if copies:
        yield Diagnostic(
            "bad" if copies > len(distance) / 4 else "worry",
            f"{copies} of {len(distance)} samples may be copies: their nearest training image is far nearer "
            "than the next.",
            "Compare them below. More data, fewer steps or a smaller denoiser keep a model from memorising.",
            "nearest",
        )
    measured = run.record("metrics.json", Measured)
    everything = [*([measured] if measured else []), *reversed(run.evaluations)]
    found = (diagnostic for each in everything for diagnostic in copies_diagnostics(each.results))
    yield from islice(found, 1)


def _classes(run: RunFiles) -> Iterator[Diagnostic]:
    found = run.record("classes.json", Classes)
    rows = list(zip(found.labels, found.samples, found.real)) if found else []
    missing = [label for label, drawn, real in rows if drawn < 0.2 * real]
    if missing:
        yield Diagnostic(
            "worry",
            f"Samples hardly ever show: {', '.join(missing)}.",
            "The model has dropped a part of its data: train the denoiser longer, or make it larger.",
            "classes",
        )


def _measured_by_a_loss(run: RunFiles) -> Iterator[Diagnostic]:
    """Report the numbers of networks that a loss was trained with."""
    if not run.record("metrics.json", Measured):
        return
    try:
        _, problems = Recipe.load(run.folder.path).read(data=False)
    except MistakeError:  # it is damaged, which is said, or has components that are not installed here
        return
    for problem in problems:
        if problem.code == "shared-backbone":
            what = f"{dotted(problem.where.key).removeprefix('stages.')} {problem.what}."
            yield Diagnostic("worry", what, f"{problem.hint[:1].upper()}{problem.hint[1:]}.", "metrics")


def _small_numbers(run: RunFiles) -> Iterator[Diagnostic]:
    found = run.record("metrics.json", Measured)
    count = found.counts.get("samples", 0) if found else 0
    names = [name for name in (found.results.get("samples", {}) if found else {}) if _is_frechet(name)]
    if names and 0 < count < ENOUGH_FOR_FRECHET:
        yield Diagnostic(
            "note",
            f"{' and '.join(names)} of {count:,} samples comes out too high.",
            f"Draw {ENOUGH_FOR_FRECHET:,} or more (the sample stage's count) before you compare runs.",
            "metrics",
        )


def _limits(run: RunFiles) -> Iterator[Diagnostic]:
    """Report which half has most left to gain, by the first number that has a floor."""
    found = run.record("metrics.json", Measured) or Measured()
    samples, decoded, floor = (found.results.get(of, {}) for of in ("samples", "reconstructions", "floor"))
    name = next((name for name in samples if _is_frechet(name) and name in decoded and name in floor), None)
    few = 0 < found.counts.get("samples", 0) < ENOUGH_FOR_FRECHET
    if name is None or few or samples[name] < FAR_FROM_FLOOR * floor[name]:
        return
    half = "denoiser" if samples[name] > 2 * decoded[name] else "autoencoder"
    yield Diagnostic(
        "note",
        f"The {half} has most left to gain: {name} is {samples[name]:.4g} of samples, {decoded[name]:.4g} of "
        f"reconstructions, {floor[name]:.4g} of real images.",
        f"Train the {half} longer, or make it larger.",
        "metrics",
    )


def _is_frechet(name: str) -> bool:
    return name == "fid" or name.startswith("frechet")
