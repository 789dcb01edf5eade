"""Shell commands that connect the library's parts to a host."""
