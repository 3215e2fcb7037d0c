"""Recipes: named configurations, one TOML file each."""
