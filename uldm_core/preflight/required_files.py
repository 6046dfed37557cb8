"""Published files that a run is going to need: whether they are here, or can be fetched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from attrs import frozen

from uldm_core.errors import MistakeError, Problem, Where, listing
from uldm_core.protocols import NeedsFiles, RequiredFile
from uldm_core.recipe import ResolvedRecipe
from uldm_core.recipe.graph import needs
from uldm_core.registry import default
from uldm_core.spec.building import validate
from uldm_core.spec.component_spec import ComponentSpec

SECONDS = 4.0
"""How long an address has for its answer."""
_ABSENT = (404, 410)


@frozen
class Absent:
    """A file that is not here, and that a component needs.

    Args:
        file: what is known of it.
        reader: reads it.
        owner: the component that the reader is written within; the reader itself if in none.
        why: it cannot be fetched; empty if it can, as far as one request tells.
    """

    file: RequiredFile
    reader: ComponentSpec
    owner: ComponentSpec
    why: str = ""

    def problem(self, resolved: ResolvedRecipe) -> Problem:
        """Return what is wrong, at the recipe's line."""
        what = f"{self.file.name} is not here, and cannot be fetched: {self.why}"
        kind = self.owner.kind
        instead = listing(_without_files(self.owner, resolved)) if not kind.data else ""
        hint = f"{self.file.hint}; of kind {kind.name}, these need no file: {instead}" if instead else ""
        problem = Problem(Where(self.reader.key), what, hint or self.file.hint, code="unavailable-file")
        return resolved.placed(problem)


def absent_files(resolved: ResolvedRecipe, stages: Iterable[str]) -> list[Absent]:
    """Return the files that are not here and that the datasets, or these stages, are going to read.

    Whether they can be had is asked of each address with one request, of all at a time. A file that is here
    is not read.
    """
    absent = [
        Absent(file, reader, owner)
        for reader, owner in _readers(resolved, stages)
        for file in _files_of(reader)
        if not file.path.exists()
    ]
    answers = ask_all({each.file.url for each in absent if not each.file.obstacle})
    return [
        Absent(each.file, each.reader, each.owner, each.file.obstacle or answers[each.file.url])
        for each in absent
    ]


def is_complete(spec: ComponentSpec) -> bool:
    """Whether every published file that a component and its parts read is here; no address is asked."""
    return all(file.path.exists() for part in spec.nested() for file in _files_of(part))


def file_problems(resolved: ResolvedRecipe, absent: Iterable[Absent]) -> list[Problem]:
    """Return a problem for each component that needs a file which is neither here nor to be had."""
    return [each.problem(resolved) for each in absent if each.why]


def ask_all(urls: Iterable[str]) -> dict[str, str]:
    """Return why no file can be fetched from each address, all asked at a time; empty where one can."""
    answers = dict.fromkeys(urls, f"no answer within {SECONDS:g} s")

    def note(url: str) -> None:
        answers[url] = ask(url)

    threads = [Thread(target=note, args=(url,), daemon=True) for url in answers]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SECONDS
    for thread in threads:  # a look-up of names knows no time limit
        thread.join(max(0.0, until - time.monotonic()))
    return dict(answers)


def ask(url: str) -> str:
    """Return why no file can be fetched from an address, by one request; empty if one can.

    Of a server that answers otherwise than that there is no such file, nothing is concluded: some refuse the
    question and give the file. What is no address of the web is not asked.
    """
    if not url.startswith(("http://", "https://")):
        return ""
    try:
        with urlopen(Request(url, method="HEAD", headers={"User-Agent": "uldm"}), timeout=SECONDS):
            return ""
    except HTTPError as error:
        return f"{error.code} {error.reason}" if error.code in _ABSENT else ""
    except URLError as error:
        return str(error.reason)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__


def _readers(
    resolved: ResolvedRecipe, stages: Iterable[str]
) -> Iterator[tuple[ComponentSpec, ComponentSpec]]:
    """Yield the components that these stages use, and all datasets, each with the one that it is part of."""
    specs = [resolved.stages[name] for name in stages]
    used = set().union(*(needs(spec, resolved.components) for spec in specs))
    tops = [spec for name, spec in resolved.components.items() if name in used or spec.kind.data]
    for top in (*tops, *specs):
        for owner in top.nested():
            if owner is top:
                yield owner, owner
            for part in owner.parts():
                yield part, part if owner.kind.stage else owner


def _files_of(spec: ComponentSpec) -> Iterable[RequiredFile]:
    target: object = spec.component.load()
    return target.required_files(spec.options) if isinstance(target, NeedsFiles) else ()


def _without_files(like: ComponentSpec, resolved: ResolvedRecipe) -> list[str]:
    """Return the components of a kind that need no such file, as they are by default."""
    registry, kind, found = default(), like.kind.name, []
    for name in registry.names(kind):
        try:
            spec = validate(registry, kind, name, {}, components=resolved.components)
            if not any(True for part in spec.nested() for _ in _files_of(part)):
                found.append(name)
        except MistakeError:  # it is not to be had, or has an option without a default
            continue
    return found
