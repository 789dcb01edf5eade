"""diffusers: sampling and training on its U-Nets, for the command line and for comparisons."""
