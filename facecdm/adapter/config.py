"""The sizes of an adapter, which are saved as JSON in the metadata of its file."""

import json
import math
from dataclasses import asdict, dataclass

from ..bases.layers import MOST_LAYERS, LayerMap
from ..errors import BadFile

FEW, CONTENT = 64, 48  # up to so many tokens are free; the features that each of more tokens carries
_SPATIAL = "places"  # the JSON's name for spatial_tokens


def content_of(face_tokens: int) -> int:
    """The default `face_content` of an adapter with so many face tokens."""
    return CONTENT if face_tokens > FEW else 0


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of a triplet adapter.

    layer_map       the base model's cross-attention layers
    face_width      features of a face embedding
    face_tokens     tokens that are made of it
    face_rank       width of the bottleneck between them
    face_content    features that each token carries; 0: no limit, which costs many weights if there are many tokens
    image_width     features of the CLIP vision tower's penultimate states; 0: no image stream
    image_tokens    tokens that are made of them
    image_layers    layers of the resampler that makes them
    interplay       whether face, image and text tokens attend to each other
    knots           noise levels between which a gate is interpolated
    router          whether each position weighs the streams by how they agree (method.md, part 3)
    spatial_tokens  whether the face tokens are a square grid over the aligned face, which can be conditioned on the
                    location of the face
    location_channels  latent channels of the base model if the adapter has a LocationHead; 0: it has none
    recogniser      the face recogniser that it was trained with; empty while untrained
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

    @property
    def grid_side(self) -> int:
        """Tokens along a side of the grid of spatial tokens."""
        return math.isqrt(self.face_tokens)

    @property
    def streams(self) -> tuple[str, ...]:
        return ("face", "image") if self.image_width else ("face",)

    def dumps(self) -> str:
        fields = asdict(self) | {"layer_map": self.layer_map.to_json()}
        return json.dumps({_SPATIAL if key == "spatial_tokens" else key: value for key, value in fields.items()})

    @classmethod
    def loads(cls, text: str, source: str) -> "AdapterConfig":
        """Raises BadFile, naming `source`, if `text` is not a configuration."""
        try:
            fields = json.loads(text)
            if _SPATIAL in fields:
                fields["spatial_tokens"] = fields.pop(_SPATIAL)
            config = cls(**fields | {"layer_map": LayerMap.from_json(fields["layer_map"])})
            if config.image_layers > MOST_LAYERS:
                raise ValueError(f"it declares more than {MOST_LAYERS} layers")
            return config
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise BadFile(
                f"{source}: its FaceCDM configuration cannot be read ({error}); "
                "it was written by another version or is damaged: save it anew"
            ) from error
