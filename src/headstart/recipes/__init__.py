"""Recipes: everything a training run depends on, and the books of those that ship with the library."""
