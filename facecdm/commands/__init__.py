"""Commands of the shell that join the library's parts with a host."""
