"""Recipes: TOML with places, overrides, variables, references; checked, then planned."""

from uldm_core.recipe.reader import RunOptions
from uldm_core.recipe.recipe import Recipe, ResolvedRecipe

__all__ = ["Recipe", "ResolvedRecipe", "RunOptions"]
