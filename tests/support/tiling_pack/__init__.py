"""A node pack for tests that samples in two tiles of rolled latents, as SpotDiffusion does: they are not found."""

import torch


def in_rolled_tiles(apply_model, args):
    tiles = args["input"].roll(3, -1).chunk(2, -1)
    return torch.cat([apply_model(tile, args["timestep"], **args["c"]) for tile in tiles], -1).roll(-3, -1)


class RolledTiles:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    def patch(self, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(in_rolled_tiles)
        return (model,)


NODE_CLASS_MAPPINGS = {"RolledTiles": RolledTiles}
