"""Tiled diffusion: masks and poses are those of the whole picture, whichever part of it a call computes."""

import logging

import pytest
import torch
from twins import conditioning, predict

from facecdm.adapter.person import Person
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.tiles import find_tiles

SIGMA = 2.0


def one_by_one(apply_model, args):
    """A wrapper that calls the U-Net with one tile after the other."""
    tiles = args["input"].chunk(2, -1)
    return torch.cat([apply_model(tile, args["timestep"], **args["c"]) for tile in tiles], -1)


def together(apply_model, args):
    """As ComfyUI-TiledDiffusion calls it: all tiles in one batch, each with the rows of all conditionings."""
    tiles = args["input"].chunk(2, -1)
    c = {key: torch.cat([value] * 2) if isinstance(value, torch.Tensor) else value for key, value in args["c"].items()}
    return torch.cat(apply_model(torch.cat(tiles), torch.cat([args["timestep"]] * 2), **c).chunk(2), -1)


def shifted(apply_model, args):
    """As its SpotDiffusion: the latents are rolled, so that one tile lies across the picture's edge."""
    rolled = {**args, "input": args["input"].roll(3, -1)}
    return one_by_one(apply_model, rolled).roll(-3, -1)


def in_tiles(model, tiles):
    model = model.clone()
    model.set_model_unet_function_wrapper(tiles)
    return model


def prompts():
    generator = torch.Generator().manual_seed(1)
    return [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]


def latents():
    return torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(9)) * SIGMA


def person(adapter, **more):
    face = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    return Person(adapter, torch.nn.functional.normalize(face, dim=1), **more)


@pytest.mark.parametrize("tiles", [one_by_one, together])
def test_a_tile_gets_its_part_of_the_mask(sd15, adapter, tiles):
    """A person of the left half is everywhere in the left tile and nowhere in the right one; the negative is plain."""
    mask = torch.zeros(64, 128)
    mask[:, :64] = 1
    masked, everywhere, plain = (
        predict(in_tiles(model, tiles), latents(), SIGMA, *prompts(), cfg=3.0)
        for model in (
            apply_person(sd15.model, person(adapter, mask=mask)),
            apply_person(sd15.model, person(adapter)),
            sd15.model,
        )
    )
    torch.testing.assert_close(masked[..., :8], everywhere[..., :8])
    torch.testing.assert_close(masked[..., 8:], plain[..., 8:])
    assert (masked - plain)[..., :8].abs().max() > 1e-2


def test_tiles_in_one_batch_are_tiles_one_by_one(sd15, adapter):
    """Rows of the prompt show the person, rows of the negative prompt do not, in every tile."""
    model = apply_person(sd15.model, person(adapter))
    one, all_ = (predict(in_tiles(model, t), latents(), SIGMA, *prompts(), cfg=3.0) for t in (one_by_one, together))
    torch.testing.assert_close(one, all_, rtol=0, atol=1e-4)


def test_a_tile_gets_its_part_of_the_face_location(sd15, spatial_adapter):
    """A face in the left half of the picture, in the tile that is this half: as in a picture that is this half."""
    points = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    half = apply_person(sd15.model, person(spatial_adapter, keypoints=points))
    whole = apply_person(sd15.model, person(spatial_adapter, keypoints=points * torch.tensor([0.5, 1.0])))
    tiled = predict(in_tiles(whole, one_by_one), latents(), SIGMA, *prompts(), cfg=3.0)
    alone = predict(half, latents()[..., :8], SIGMA, *prompts(), cfg=3.0)
    torch.testing.assert_close(tiled[..., :8], alone, rtol=0, atol=1e-4)


def test_a_tile_that_is_not_found_is_warned_of_once(sd15, adapter, caplog):
    mask = torch.ones(8, 16)
    masked, plain = (apply_person(sd15.model, person(adapter, mask=m)) for m in (mask, None))
    with caplog.at_level(logging.WARNING):
        predict(in_tiles(plain, shifted), latents(), SIGMA, *prompts())
        predict(in_tiles(masked, one_by_one), latents(), SIGMA, *prompts())
        assert "tiles" not in caplog.text, "nothing to say where nothing is lost"
        predict(in_tiles(masked, shifted), latents(), SIGMA, *prompts())
    assert caplog.text.count("their positions cannot be found") == 1


def test_tiles_are_found_by_their_content():
    whole = latents()
    batch = torch.cat([whole[..., 2:6, 5:12], whole[..., 4:8, 9:16], torch.zeros(2, 4, 4, 7)])
    assert find_tiles(batch, whole, 1) == ((4, 7, 2, 5), (4, 7, 4, 9), None)
    assert find_tiles(batch, whole, 1, locate=False) == (None,) * 3
    assert find_tiles(whole, whole, 1) is None and find_tiles(batch[:5], whole, 1) is None
    assert find_tiles(whole[..., 2:6, :], whole, 1) == ((4, whole.shape[-1], 2, 0),), "as wide as the picture"
    assert find_tiles(whole[..., 3:6], whole, 1) == ((whole.shape[-2], 3, 0, 3),), "as high as the picture"
    assert find_tiles(torch.zeros(2, 4, 9, 9), whole, 1) == (None,), "larger than the picture"
