"""Implementation of quickstart.py: download and set up the demo and the tests. Standard library only."""
