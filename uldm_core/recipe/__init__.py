"""Recipes: TOML with places, overrides, variables, references; checked, then planned."""

from uldm_core.recipe.reader import RunOptions
from uldm_core.recipe.recipe import Plan, Recipe

__all__ = ["Plan", "Recipe", "RunOptions"]
