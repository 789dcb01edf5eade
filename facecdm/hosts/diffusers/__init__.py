"""diffusers: sampling and training on its U-Nets, for the shell and for comparisons."""
