"""What quickstart.py does: fetch and set up what the demo and the tests need. Standard library only."""
