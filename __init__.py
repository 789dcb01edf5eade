"""The door of the pack: what ComfyUI imports. Nodes live in nodes/, the library in facecdm/."""

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"

folder_paths.add_model_folder_path("facecdm", os.path.join(folder_paths.models_dir, "facecdm"), is_default=True)
folder_paths.folder_names_and_paths["facecdm"][1].add(".safetensors")  # an empty set would list every file
for _key in ("ipadapter", "instantid", "pulid"):  # where other packs have their users put adapters
    if _key not in folder_paths.folder_names_and_paths:
        folder_paths.add_model_folder_path(_key, os.path.join(folder_paths.models_dir, _key))
        folder_paths.folder_names_and_paths[_key][1].update((".safetensors", ".bin", ".pt", ".pth", ".ckpt"))


class FaceCDMExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES

        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    return FaceCDMExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
