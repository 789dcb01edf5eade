"""Core splits the conditionings of a step over several GPUs: the U-Net of each asks the same Run, from a thread."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch

from facecdm.adapter.person import Person
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE
from facecdm.hosts.comfy.sampling.run import Run

ELSEWHERE = torch.device("meta")  # stands in for a second GPU: tensors of two devices do not mix there either
TENSORS = ("k", "v", "gate", "kappa", "mask", "router")


def cond(uuid: str) -> dict:
    text = torch.randn(1, 77, 96, generator=torch.Generator().manual_seed(len(uuid)))
    return {"uuid": uuid, "model_conds": {"c_crossattn": SimpleNamespace(cond=text)}}


def test_every_device_has_its_own_keys_values_and_gates(sd15, spatial_adapter):
    points = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    generator = torch.Generator().manual_seed(0)
    face, image = torch.randn(1, 512, generator=generator), torch.randn(1, 7, 32, generator=generator)
    person = Person(spatial_adapter, face, image, mask=torch.ones(8, 8), keypoints=points)
    run = Run((person,))
    split = [("a", torch.device("cpu")), ("bb", ELSEWHERE)]

    def unet(part: tuple[str, torch.device]):
        """What the first layer of one device's U-Net asks for."""
        return run.streams(0, 1, (8, 8), part[1], {"uuids": [part[0]]})

    for sigma in (2.0, 1.0):
        run.step(sd15.model.model, [[cond("a"), cond("bb")]], torch.tensor([sigma]), torch.zeros(1, 4, 8, 8))
        with ThreadPoolExecutor() as threads:
            both = list(threads.map(unet, split))
        for streams, (_, device) in zip(both, split):
            assert streams and len(streams) == len(both[0])
            for stream in streams:
                held = [getattr(stream, name) for name in TENSORS]
                assert {tensor.device for tensor in held if tensor is not None} == {device}
            assert streams[0].location.keypoints.device == device
        assert unet(split[1])[0] is both[1][0], "and makes them once a step"
