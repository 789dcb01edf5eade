"""Adapters that others published: which they are, how they are read, and what they need."""
