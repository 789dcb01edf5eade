"""The interplay of face, image and text tokens: once per prompt, before keys and values."""

from torch import Tensor, nn

from .projectors import CrossAttention


class Interplay(nn.Module):
    """F' = F + Z_f·CrossAttn(LN F; [T, I]) and I' = I + Z_i·CrossAttn(LN I; [T, F]); Z is zero at initialisation.

    Text that is not as wide as the tokens is first projected to their width by `text`.
    """

    def __init__(self, width: int, streams: tuple[str, ...], text_width: int):
        super().__init__()
        self.text = (
            nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width, bias=False))
            if text_width != width
            else None
        )
        self.attention = nn.ModuleDict({stream: CrossAttention(width) for stream in streams})
        for block in self.attention.values():
            nn.init.zeros_(block.to_out.weight)

    def forward(self, tokens: dict[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        """`tokens` by stream, [B, N, width]; `text` [B or 1, T, text_width]. Absent streams are left out."""
        text = text if self.text is None else self.text(text)
        return {
            stream: own
            + self.attention[stream](own, text, *(other for name, other in tokens.items() if name != stream))
            for stream, own in tokens.items()
        }

    @property
    def is_identity(self) -> bool:
        return not any(block.to_out.weight.any() for block in self.attention.values())
