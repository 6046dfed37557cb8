"""Recipes: TOML with places, overrides, variables and references; checked and resolved."""

from uldm_core.recipe.recipe import Recipe, ResolvedRecipe
from uldm_core.recipe.run_options import RunOptions

__all__ = ["Recipe", "ResolvedRecipe", "RunOptions"]
