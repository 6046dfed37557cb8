"""Recipes: TOML with places, overrides, variables, references; checked, then resolved.

Names are imported when they are first asked for: the command line reads ``RunOptions`` alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uldm_core.recipe.recipe import Recipe, ResolvedRecipe
    from uldm_core.recipe.run_options import RunOptions

__all__ = ["Recipe", "ResolvedRecipe", "RunOptions"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "run_options" if name == "RunOptions" else "recipe"
    return getattr(import_module(f"uldm_core.recipe.{module}"), name)
