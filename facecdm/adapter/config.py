"""What an adapter is made of. Travels as JSON in the metadata of its file."""

import json
import math
from dataclasses import asdict, dataclass

from ..bases.layers import MOST_LAYERS, LayerMap
from ..errors import BadFile

FEW, CONTENT = 64, 48  # so many tokens say whatever they like; what each of more of them says


def content_of(face_tokens: int) -> int:
    """The `face_content` that so many tokens have unless told otherwise."""
    return CONTENT if face_tokens > FEW else 0


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of a triplet adapter.

    `face_width` features of the recogniser become `face_tokens` tokens through a bottleneck of `face_rank`, of which
    each says `face_content` features (0: whatever it likes, which many tokens pay for with many weights);
    `image_width` features of each of the CLIP vision tower's penultimate states become `image_tokens` tokens
    (0 width: no image stream). `knots` is the number of noise levels between which a gate is interpolated; `router`
    weighs the streams anew at every place (method.md, part 3). `places` says that the face's tokens are places of the
    upright face, in a square, which may be told where they are to be. `location_channels` is the number of the base's
    latent channels if the adapter has a LocationHead, which finds that out by itself (0: it has none).
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
    places: bool = False
    location_channels: int = 0
    recogniser: str = ""  # the face recogniser it was trained with; empty while untrained

    @property
    def grid_side(self) -> int:
        """Of the square that the face's tokens make."""
        return math.isqrt(self.face_tokens)

    @property
    def streams(self) -> tuple[str, ...]:
        return ("face", "image") if self.image_width else ("face",)

    def dumps(self) -> str:
        return json.dumps(asdict(self) | {"layer_map": self.layer_map.to_json()})

    @classmethod
    def loads(cls, text: str, source: str) -> "AdapterConfig":
        """Raises BadFile, naming `source`, where `text` is not what `dumps` wrote."""
        try:
            fields = json.loads(text)
            config = cls(**fields | {"layer_map": LayerMap.from_json(fields["layer_map"])})
            if config.image_layers > MOST_LAYERS:
                raise ValueError(f"it declares more than {MOST_LAYERS} layers")
            return config
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise BadFile(
                f"{source}: its FaceCDM configuration cannot be read ({error}); "
                "it was written by another version or is damaged: save it anew"
            ) from error
