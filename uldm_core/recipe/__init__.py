"""Recipes: TOML with places, overrides, variables, references; checked, then planned."""

from uldm_core.recipe.recipe import Plan, Recipe, RunOptions

__all__ = ["Plan", "Recipe", "RunOptions"]
