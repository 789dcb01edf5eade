"""The workflows on FLUX.1-dev with published adapters."""

from facecdm.models.catalogue import EVA, SIGLIP

from .parts import (
    MODEL,
    PERSON,
    PERSON_GROUP,
    PHOTO,
    PHOTO_GROUP,
    PICTURE_GROUP,
    PICTURE_WIDE,
    PROMPT,
    Group,
    Node,
    Plan,
    n,
    photo_of,
    sampling,
)
from .published import adapter, pack, with_picture

SAMPLER = {"seed": 1, "steps": 25, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
CFG = """FLUX.1-dev has its guidance built in: keep cfg at 1 and change FluxGuidance. With a cfg above 1 the negative \
prompt counts, too, and each step takes twice as long."""


def base(width: int = 1024, height: int = 1024) -> dict[str, Node]:
    return {
        "base": n("UNETLoader", unet_name="flux1-dev.safetensors"),
        "clip": n("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux"),
        "vae": n("VAELoader", vae_name="ae.safetensors"),
        "size": n("EmptySD3LatentImage", "Size", width=width, height=height),
    }


def prompt(text: str, guidance: float) -> dict[str, Node]:
    return {
        "prompt": n("CLIPTextEncode", "Prompt", text=text, clip="@clip"),
        "guidance": n("FluxGuidance", conditioning="@prompt", guidance=guidance),
        "negative": n("ConditioningZeroOut", "No negative prompt", conditioning="@prompt"),
    }


def result(prefix: str) -> dict[str, Node]:
    return sampling("@apply", positive="@guidance", vae="@vae", prefix=prefix, **SAMPLER)


BASE_GROUP = Group("Model and adapter", MODEL, (("base", "clip"), ("vae", "adapter")))
PROMPT_GROUP = Group("Your prompt", PROMPT, (("prompt", "size"), ("guidance", "negative")))

PULID = Plan(
    "flux_pulid",
    "FaceCDM 14 - FLUX.1 with PuLID",
    f"""## Your photo with FLUX.1 and PuLID

PuLID-FLUX acts after every second double block and every fourth single block. Its authors start it at 0.2 of the \
sampling for photographs (start_at), and at 0 for styles: the later, the more the prompt decides.

{CFG}""",
    base()
    | pack("antelopev2")
    | photo_of()
    | adapter("pulid/pulid_flux_v0.9.1.safetensors", EVA)
    | with_picture(face_strength=1.0, start_at=0.2)
    | prompt("portrait photo of a person in a green shirt, soft daylight, plain blue background, 50 mm lens", 4.0)
    | result("pulid flux"),
    (
        (PHOTO_GROUP, BASE_GROUP),
        (PROMPT_GROUP, PERSON_GROUP),
        (PICTURE_GROUP,),
    ),
    runs=False,
)

WITHANYONE = Plan(
    "flux_withanyone",
    "FaceCDM 15 - FLUX.1 with two people by WithAnyone",
    f"""## Two people with FLUX.1 and WithAnyone

1. Choose a photo of each person on the left.
2. Person Regions sets the box of each face: a line of four numbers each, as fractions of the picture. WithAnyone was \
trained with such boxes; they should not overlap.
3. Say in the prompt who is where, with age, hair and clothes: face_strength keeps the identity alone, image_strength \
(SigLIP) also expression, make-up and hair.

{CFG}""",
    base()
    | pack("antelopev2")
    | photo_of("photo_1", "Left", faces="faces_1")
    | photo_of("photo_2", "Right", "faceworld-2.webp", "faces_2")
    | adapter("ipadapter/withanyone.safetensors", SIGLIP)
    | {
        "regions": n(
            "FaceCDMPersonRegions",
            width=1024,
            height=1024,
            boxes="0.18 0.2 0.42 0.5\n0.58 0.2 0.82 0.5",
            softness=0.0,
            fill="regions only",
        ),
        "apply": n(
            "FaceCDMApplyPeople",
            model="@base",
            adapter="@adapter",
            masks="@regions",
            faces_1="@faces_1",
            faces_2="@faces_2",
            clip_vision="@adapter:2",
            image_1="@photo_1",
            image_2="@photo_2",
            face_strength=1.0,
        ),
    }
    | prompt(
        "photo of two people side by side, on the left a young woman with long red hair in a green shirt, on the right "
        "a middle-aged man with short black hair in a white shirt, plain blue background, soft daylight",
        4.0,
    )
    | result("withanyone flux"),
    (
        (
            Group("Photos", PHOTO, (("photo_1", "photo_2"), ("faces_1",), ("faces_2",))),
            Group("Face pack", PHOTO, (("analyzer",),)),
        ),
        (BASE_GROUP, Group("Boxes", PERSON, (("regions",), ("apply",)))),
        (PROMPT_GROUP, PICTURE_WIDE),
    ),
    runs=False,
)

ALL = (PULID, WITHANYONE)
