"""Sampling with people: the patches on a MODEL, and what is computed once per prompt or step."""
