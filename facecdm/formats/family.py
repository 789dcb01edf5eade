"""The declaration of a published family. Each family has one file in `families/`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..adapter.features import Features
from ..adapter.stream_module import StreamModule
from ..bases.layers import LayerMap
from .unet_layers import UnetLayers

if TYPE_CHECKING:
    from .read import Published
    from .recognised import Recognised
    from .sources import Sources

State = dict[str, Tensor]
FeaturePair = tuple[Features, Features | None]  # for the prompt; for the negative prompt, if it gets the stream, too

# The form of the recogniser's embedding that a family reads: scaled to length 1, or as computed.
NORMED, RAW = "normed", "raw"
# The picture that a family encodes.
WHOLE, FACE, ALIGNED = "the whole image", "a picture of the face", "the aligned face"
UPRIGHT = "the face in its picture, grey on white,"
BOX = "the square around the face's box"

# The strength of FaceID's LoRA that its authors recommend, the default of `lora_strength`; and the factor on
# `lora_strength` of families whose authors add their LoRA in full.
LORA = 0.6
FULL_LORA = 1 / LORA

BUFFALO, ANTELOPE = "buffalo_l/w600k_r50.onnx", "antelopev2/glintr100.onnx"


class Recipe(Protocol):
    """How a family's features are computed from the connected inputs.

    picture    the picture that it encodes; "" for none
    vision     the part of the vision tower's output that it reads; "" for none
    embedding  NORMED or RAW; "" if no recogniser is needed
    empty      whether the negative prompt gets features of an empty face or picture
    """

    picture: str
    vision: str
    embedding: str

    @property
    def empty(self) -> bool: ...

    def __call__(self, part: "Recognised", sources: "Sources") -> FeaturePair:
        """Features of every reference. Raises NoFace, Mismatch, FaceCDMError."""


@dataclass(frozen=True)
class Sizes:
    """A projector's sizes.

    tokens        tokens per reference
    face_width    features of the recogniser's embedding; 0 without one
    vision_width  features of the vision tower's output; 0 without one
    """

    tokens: int
    face_width: int = 0
    vision_width: int = 0


class Projector(Protocol):
    """An nn.Module from features to tokens [R, N, context], with the keys of the published files."""

    @classmethod
    def of(cls, state: State) -> "Projector":
        """A module with the shapes of a state dict."""

    @staticmethod
    def sizes(state: State) -> Sizes: ...

    def __call__(self, features: Features) -> Tensor: ...


class LayerFormat(Protocol):
    """How a family's file stores the part that acts in the base model's layers.

    for_controlnets  whether ControlNets were trained with the face tokens of such families
    """

    for_controlnets: bool

    def matches(self, state: State) -> bool:
        """Whether `ip_adapter` of a file has this format."""

    def layer_map(self, published: "Published") -> LayerMap:
        """The base model that the file was made for. Raises BadFile, UnsupportedModel."""

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> StreamModule:
        """The stream, which shares the file's tensors. Raises BadFile."""


@dataclass(frozen=True)
class Rule:
    """The projectors that a family recognises: `shapes` by key (None: any size), and `condition`."""

    shapes: dict[str, tuple[int | None, ...]]
    condition: Callable[[State], bool] | None = None

    def matches(self, state: State) -> bool:
        fits = all(key in state and _fits(state[key].shape, shape) for key, shape in self.shapes.items())
        return fits and (self.condition is None or self.condition(state))


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(want in (None, have) for want, have in zip(wanted, found))


@dataclass(frozen=True)
class Family:
    """A published family.

    key              its name in metadata, exports and the `family` widget
    name             its name in reports
    stream           "face" (reads a recogniser's embedding) or "image" (reads pictures only)
    rule             recognises its projector; families with an equal rule and `layers` are distinguished by file name
    projector        the class that makes its tokens
    recipe           how its features are computed
    layers           how its file holds the layers
    part             prefix of its tensors, if the file holds the adapter of another stream as well; "" otherwise
    ignored          prefixes of the projector's tensors that are not read
    files            published file by base model
    substitute       key of the family to suggest for a base model without a file; "" for none
    renames          parts of keys in the authors' own file (regular expressions), and IP-Adapter's names for them
    recogniser       the recogniser that it was trained with
    projection       how κ removes the text's part (adapter.person.Stream)
    kappa            κ of the published method
    zeros            number of zero tokens by projection
    strength         recommended strength
    lora_factor      factor on `lora_strength`
    prompt_factor    factor on the strength at `balance` = -1
    identity_factor  factor on the strength at `balance` = 1
    prompt_kappa     κ at `balance` = -1
    boxed            whether it was trained with a region for each face
    structure        whether the `structure` of FaceCDM Apply Options weights a part of its tokens
    name_parts       parts of a file name that identify it if its content does not, joined by "-"
    note             further information for the user
    """

    key: str
    name: str
    stream: str
    rule: Rule
    projector: type[Projector]
    recipe: Recipe
    layers: LayerFormat = UnetLayers()
    part: str = ""
    ignored: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    substitute: str = ""
    renames: tuple[tuple[str, str], ...] = ()
    recogniser: str = BUFFALO
    projection: str = "feature"
    kappa: float = 0.0
    zeros: dict[str, int] = field(default_factory=dict)
    strength: float = 0.8
    lora_factor: float = 1.0
    prompt_factor: float = 0.5
    identity_factor: float = 1.3
    prompt_kappa: float = 0.5
    boxed: bool = False
    structure: bool = False
    name_parts: tuple[str, ...] = ()
    note: str = ""

    def matches(self, published: "Published") -> bool:
        """Whether the content of a file is this family's."""
        return self.layers.matches(published.ip_adapter) and self.rule.matches(published.image_proj)

    @property
    def reads(self) -> str:
        """The inputs to connect, in words."""
        recipe = self.recipe
        parts = [f"a face's embedding ({recipe.embedding})"] if recipe.embedding else []
        return " and ".join(
            parts + ([f"{recipe.picture} through CLIP vision ({recipe.vision})"] if recipe.picture else [])
        )
