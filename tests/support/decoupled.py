"""Decoupled attention in diffusers' U-Net, written from its authors' equations."""

import contextlib

import torch
from twins import Twins


class Reference:
    """One cross-attention layer of diffusers' U-Net with identity tokens: InstantID's in the mode "neutral"
    (ip_adapter/attention_processor.py), else PuLID's (pulid/attention_processor.py).
    """

    def __init__(self, tokens, to_k, to_v, strength: float, mode: str):
        self.tokens, self.to_k, self.to_v, self.strength, self.mode = tokens, to_k, to_v, strength, mode

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None):
        q = attn.to_q(x)
        text = self.attend(q, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states), attn.heads)
        k, v = self.tokens @ self.to_k.T, self.tokens @ self.to_v.T
        identity = self.attend(q, k, v, attn.heads)
        shared = (text * identity).sum(-2, keepdim=True) / (text * text).sum(-2, keepdim=True) * text
        if self.mode == "style":
            identity = identity - shared
        elif self.mode == "fidelity":
            scores = torch.einsum("bnhd,bmhd->bhnm", *(y.unflatten(-1, (attn.heads, -1)) for y in (q, k)))
            mass = scores.softmax(-1).mean(1)[:, :, :5].sum(-1, keepdim=True)
            identity = identity + (mass - 1) * shared
        return attn.to_out[0](text + self.strength * identity)

    @staticmethod
    def attend(q, k, v, heads: int):
        q, k, v = (y.unflatten(-1, (heads, -1)) for y in (q, k, v))
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v).flatten(2)


@contextlib.contextmanager
def reference(twins: Twins, ip_adapter: dict, tokens, strength: float, mode: str = "neutral"):
    """diffusers' U-Net with an adapter whose file numbers the attention processors in diffusers' order.

    `tokens` [rows, N, context], one row per row of the batch.
    """
    before = twins.unet.attn_processors
    after = {
        name: Reference(tokens, *(ip_adapter[f"{n}.to_{part}_ip.weight"] for part in "kv"), strength, mode)
        if "attn2" in name
        else processor
        for n, (name, processor) in enumerate(before.items())
    }
    twins.unet.set_attn_processor(after)
    try:
        yield
    finally:
        twins.unet.set_attn_processor(before)


class WithLora:
    """Processor `number` of a U-Net with a file's LoRA in full, and in cross-attention with its tokens; written from
    ConsistentID's attention.py and UniPortrait's uniportrait_attention_processor.py.
    """

    def __init__(self, number: int, ip_adapter: dict, tokens, strength: float):
        self.state = {key.split(".", 1)[1]: x for key, x in ip_adapter.items() if key.split(".", 1)[0] == str(number)}
        self.tokens, self.strength = tokens, strength

    def linear(self, layer, part: str, x):
        down, up = (self.state[f"to_{part}_lora.{way}.weight"] for way in ("down", "up"))
        return layer(x) + x @ down.T @ up.T

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, temb=None):
        text = x if encoder_hidden_states is None else encoder_hidden_states
        q = self.linear(attn.to_q, "q", x)
        k, v = self.linear(attn.to_k, "k", text), self.linear(attn.to_v, "v", text)
        found = Reference.attend(q, k, v, attn.heads)
        if encoder_hidden_states is not None:
            k, v = (self.tokens @ self.state[f"to_{part}_ip.weight"].T for part in "kv")
            found = found + self.strength * Reference.attend(q, k, v, attn.heads)
        return self.linear(attn.to_out[0], "out", found)


@contextlib.contextmanager
def reference_with_lora(twins: Twins, ip_adapter: dict, tokens, strength: float):
    """diffusers' U-Net with a file's LoRA and tokens [rows, N, context]."""
    before = twins.unet.attn_processors
    twins.unet.set_attn_processor(
        {name: WithLora(number, ip_adapter, tokens, strength) for number, name in enumerate(before)}
    )
    try:
        yield
    finally:
        twins.unet.set_attn_processor(before)
