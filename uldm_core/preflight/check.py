"""Everything that is wrong with a recipe, before anything runs."""

from __future__ import annotations

from uldm_core.errors import Problem
from uldm_core.preflight.dry_build import dry_build, untrained
from uldm_core.recipe.recipe import Recipe, in_order
from uldm_core.registry import Registry


def check(recipe: Recipe, registry: Registry | None = None) -> list[Problem]:
    """Return everything that is wrong with a recipe, each at its place; an empty list if nothing is.

    Every component whose own options are right is built for its shapes alone, so that what its constructor
    refuses is found as well. What cannot be checked because of another problem is left until that is fixed.

    Args:
        recipe: as written.
        registry: what components there are; the default one unless another is given.
    """
    resolved, problems = recipe.read(registry)
    unfit = (*problems, *resolved.filled.problems)  # some of which are left out of the former
    wrong = [problem.where.key for problem in unfit if not problem.warning]
    built = dry_build(resolved, wrong=wrong)
    found = [*problems, *map(resolved.placed, built.problems)]
    if all(problem.warning for problem in found):
        found += map(resolved.placed, untrained(resolved, built))
    return in_order(found)
