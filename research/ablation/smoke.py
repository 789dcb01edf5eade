"""Shorter recipes: a share of the steps, or a few for a smoke run."""

import copy

SMOKE_PEOPLE = 20  # of each split: the spatial tokens need 32 people
SMOKE_STEPS, SMOKE_BATCH = 6, 4


def short_recipe(recipe: dict, share: float = 1.0, smoke: bool = False) -> dict:
    """The recipe with a share of its steps; for a smoke run with SMOKE_STEPS a stage."""
    recipe = copy.deepcopy(recipe)
    for stage in recipe["stages"].values():
        stage["steps"] = SMOKE_STEPS if smoke else max(round(share * stage["steps"]), 1)
    if smoke:
        recipe["all"] |= {"batch": SMOKE_BATCH, "save_every": 4, "warmup": 1, "location_steps": SMOKE_STEPS}
    return recipe
