"""The doctor reports installed and missing parts, and how to get them."""
