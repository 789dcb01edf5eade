"""The doctor: what is installed, what is missing, and how to get it."""
