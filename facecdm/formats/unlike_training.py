"""A warning for faces that are far from all faces that one of FaceCDM's own adapters was trained on."""

from torch import Tensor
from torch.nn import functional as F

from ..adapter.person import Person
from ..bases import base_of
from ..bases.demo import DEMO
from ..invocation import command_line

SHARED_MEAN = 0.3  # length of a data set's mean embedding from which its faces are alike
DEMO_ADVICE = (
    "The demo model was trained on synthetic faces only, so real photos are not matched. For photos of real people "
    f"fetch a model for photos, for example with `{command_line('get sdxl_faceid_plusv2')}`, and open the workflow of "
    "that name."
)
ADVICE = "Use an adapter that was trained on photos like this one."


def unlike_training(person: Person) -> tuple[str, ...]:
    """The warning, or nothing.

    Embeddings of a synthetic data set share a large mean μ. A face of the set has a cosine of about |μ| with it (demo:
    |μ| is .54, the cosine .43 to .68 in 16 pictures of FaceWorld), a photo of a real person almost none (at most .08 in
    three photos). The μ of an adapter for photos is small, and it gives no warning.
    """
    projector, face = getattr(person.adapter, "face_projector", None), person.settings.get("face")
    if projector is None or not isinstance(person.face, Tensor) or face is None or not face.strength:
        return ()
    length = projector.mean.norm()
    if length < SHARED_MEAN:
        return ()
    cosines = F.normalize(person.face, dim=-1) @ projector.mean / length
    if cosines.min() > length / 2:
        return ()
    advice = DEMO_ADVICE if base_of(person.adapter.config.layer_map) is DEMO else ADVICE
    return (f"this face is unlike those that the adapter was trained on, so its likeness will be low. {advice}",)
