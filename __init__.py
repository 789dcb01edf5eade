"""What ComfyUI imports: the list of nodes. Nodes live in nodes/, the library in facecdm/."""

from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"


class FaceCDMExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .nodes import NODES
        from .nodes.model_folders import register

        register()
        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    return FaceCDMExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
