"""What the shipped workflows are made from; `python -m workflows.source.make` writes the JSON files."""

from . import demo, flux, published
from .parts import Plan

PLANS: dict[str, Plan] = {plan.name: plan for plan in (*demo.ALL, *published.ALL, *flux.ALL)}
