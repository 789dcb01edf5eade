"""The sizes of an adapter, which are saved as JSON in the metadata of its file."""

import json
import math
from dataclasses import asdict, dataclass, fields

from ..bases.layers import MOST_LAYERS, LayerMap
from ..errors import BadFile, FaceCDMError

FEW, CONTENT = 64, 48  # above FEW tokens, each one carries CONTENT features by default
# Defaults of a new adapter for a DiT: cells after at most 20 blocks, a sixth as wide as the model, 512 at most. They
# add less than 2 % to the operations of every base model (docs/method.md).
TOKEN_WIDTH, CELL_WIDTH, CELL_SHARE, CELL_HEAD, MOST_CELLS = 1024, 512, 6, 64, 20
_SPATIAL = "places"  # the JSON's name for spatial_tokens
_OF_DITS = ("token_width", "cell_width", "cell_every")


def content_of(face_tokens: int) -> int:
    """The default `face_content` of an adapter with `face_tokens` tokens."""
    return CONTENT if face_tokens > FEW else 0


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of a triplet adapter.

    layer_map       the base model's layers (bases/layers.py)
    face_width      features of a face embedding
    face_tokens     tokens made from the face embedding
    face_rank       width of the bottleneck between embedding and tokens
    face_content    features that each token carries; 0: no limit, which takes many weights if there are many tokens
    image_width     features of the CLIP vision tower's penultimate states; 0: no image stream
    image_tokens    tokens made from these states
    image_layers    layers of the image stream's resampler
    interplay       whether face, image and text tokens attend to each other
    knots           number of noise levels between which a gate is interpolated
    router          whether each position weights the streams by their agreement (method.md, part 3)
    spatial_tokens  whether the face tokens form a square grid over the aligned face, so that the adapter can be
                    conditioned on the face's location
    location_channels  latent channels of the base model, for the LocationHead; 0: no LocationHead
    recogniser      the face recogniser that the adapter was trained with; empty before training
    token_width     features of a token, in a DiT; 0 in a U-Net, where it is the text's width
    cell_width      inner width of a residual cell, in a DiT; 0 in a U-Net
    cell_every      a DiT has a cell after block 0, cell_every, 2·cell_every …
    """

    layer_map: LayerMap
    face_width: int = 512
    face_tokens: int = 4
    face_rank: int = 128
    face_content: int = 0
    image_width: int = 0
    image_tokens: int = 8
    image_layers: int = 2
    interplay: bool = True
    knots: int = 8
    router: bool = False
    spatial_tokens: bool = False
    location_channels: int = 0
    recogniser: str = ""
    token_width: int = 0
    cell_width: int = 0
    cell_every: int = 1

    @classmethod
    def new(cls, layer_map: LayerMap, **sizes) -> "AdapterConfig":
        """A configuration with the default sizes of a U-Net's or a DiT's adapter. Raises FaceCDMError."""
        if layer_map.is_dit:
            if sizes.get("router"):
                raise FaceCDMError("the router works in U-Nets only: switch it off for this base model")
            every = math.ceil(len(layer_map.layers) / MOST_CELLS)
            heads = max(layer_map.layers[0].width // CELL_SHARE // CELL_HEAD, 1)
            width = min(heads * CELL_HEAD, CELL_WIDTH)
            sizes = dict(token_width=TOKEN_WIDTH, cell_width=width, cell_every=every) | sizes
        elif given := [name for name in _OF_DITS if name in sizes]:
            raise FaceCDMError(f"{given[0]} is for DiTs, and this base model is a U-Net: leave it out")
        return cls(layer_map, **sizes)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.token_width or self.layer_map.context

    @property
    def cells_at(self) -> tuple[int, ...]:
        """The blocks of a DiT that have a cell, as indices in the layer map."""
        return tuple(range(0, len(self.layer_map.layers), self.cell_every))

    @property
    def grid_side(self) -> int:
        """Tokens along a side of the grid of spatial tokens."""
        return math.isqrt(self.face_tokens)

    @property
    def streams(self) -> tuple[str, ...]:
        return ("face", "image") if self.image_width else ("face",)

    def dumps(self) -> str:
        saved = asdict(self) | {"layer_map": self.layer_map.to_json()}
        if not self.layer_map.is_dit:  # as before there were DiTs, since checkpoints compare the text
            saved = {key: value for key, value in saved.items() if key not in _OF_DITS}
        return json.dumps({_SPATIAL if key == "spatial_tokens" else key: value for key, value in saved.items()})

    def _check(self) -> None:
        """Raises ValueError for a field of the wrong type, a negative size, or more layers than a file may declare."""
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type or field.type is int and value < bool(field.default):
                raise ValueError(f"{field.name} is {str(value)[:60]}")
        if self.image_layers > MOST_LAYERS:
            raise ValueError(f"it declares more than {MOST_LAYERS} layers")
        if self.spatial_tokens and self.grid_side**2 != self.face_tokens:
            raise ValueError(f"{self.face_tokens} spatial tokens do not form a square")
        if self.layer_map.is_dit and (not self.token_width or not self.cell_width or self.cell_width % CELL_HEAD):
            raise ValueError(f"it declares cells of width {self.cell_width} and tokens of width {self.token_width}")

    @classmethod
    def loads(cls, text: str, source: str) -> "AdapterConfig":
        """Raises BadFile, naming `source`, if `text` is not a configuration."""
        try:
            given = json.loads(text)
            if _SPATIAL in given:
                given["spatial_tokens"] = given.pop(_SPATIAL)
            config = cls(**given | {"layer_map": LayerMap.from_json(given["layer_map"])})
            config._check()
            return config
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise BadFile(
                f"{source}: its FaceCDM configuration cannot be read ({error}); "
                "it was written by another version or is damaged: save it anew"
            ) from error
