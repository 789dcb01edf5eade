"""Sampling with people: the patches on a MODEL, and the values computed once per prompt or step."""
