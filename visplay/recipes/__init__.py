"""Published recipes: what each needs besides the settings in ``configs/recipes``, a file each (docs/recipes.md)."""
