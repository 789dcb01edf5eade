"""The programs that run base models: ComfyUI and diffusers. Both run the attention of facecdm/adapter."""
