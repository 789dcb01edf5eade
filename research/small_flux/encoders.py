"""The demo's encoders as those of the small Flux, for a data set (see training.dataset.encoders.Encoders)."""

import dataclasses

import torch

from facecdm.training.dataset.demo import DemoEncoders
from facecdm.training.rows import Prompt

from .model import PATCH

TEXT = 32  # tokens of a prompt; FaceWorld's captions have at most 25


class FluxEncoders(DemoEncoders):
    """The demo's autoencoder and towers; prompts have TEXT tokens and the text tower's embedding as pooled states."""

    dit = pooled = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.step *= PATCH
        self.fingerprints = dataclasses.replace(self.fingerprints, text=f"{self.fingerprints.text} pooled {TEXT}")

    @torch.no_grad()
    def text(self, captions: list[str]) -> list[Prompt]:
        ids = self._tokens(captions, padding="max_length", max_length=TEXT, truncation=True)["input_ids"]
        states, pooled = self._clip.text(self._vocabulary.rows[torch.tensor(ids)].to(self._device))
        return [Prompt(states[row : row + 1], pooled[row : row + 1]) for row in range(len(captions))]
