"""The demo model, its adapter and its pose ControlNet as ComfyUI objects."""
