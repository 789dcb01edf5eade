"""ComfyUI: the only package that imports `comfy`."""
