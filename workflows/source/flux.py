"""The workflows on FLUX.1-dev with published adapters."""

from facecdm.models.catalogue import EVA, SIGLIP, SIGLIP_SO400M

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
from .published import REAL_PROMPT, adapter, pack, to_controlnet, with_picture

BOXES = "0.18 0.2 0.42 0.5\n0.58 0.2 0.82 0.5"  # of two faces side by side
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


def result(prefix: str, model: str = "@apply", **given) -> dict[str, Node]:
    return sampling(model, **{"positive": "@guidance", "vae": "@vae", "prefix": prefix, **SAMPLER, **given})


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
    | prompt(REAL_PROMPT, 4.0)
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
            boxes=BOXES,
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

INFINITE_YOU = Plan(
    "flux_infiniteyou",
    "FaceCDM 16 - FLUX.1 with InfiniteYou",
    f"""## Your photo with FLUX.1 and InfiniteYou

InfiniteYou acts through a ControlNet alone, InfuseNet, which reads the face in place of the prompt. Its picture is \
black here, which leaves the pose to the prompt. To set the pose, connect Extract Pose with InstantID 5 points, on a \
picture of the size and shape of yours, in place of Empty Image.

By the authors' description, files with aes in their name compose better, and those with sim look more like the person.

{CFG}""",
    base(864, 1152)
    | pack("arcface_ir_se50")
    | photo_of()
    | adapter("ipadapter/infiniteyou_aes_stage2.bin")
    | {
        "net": n("ControlNetLoader", control_net_name="infusenet_aes_bf16.safetensors"),
        "pose": n("EmptyImage", "No pose", width=864, height=1152, color=0),
        **to_controlnet("@guidance", "@negative", vae="@vae", strength=1.0),
    }
    | prompt(REAL_PROMPT, 3.5)
    | result("infiniteyou flux", "@base", positive="@control", negative="@control:1", steps=30),
    (
        (PHOTO_GROUP, BASE_GROUP),
        (PROMPT_GROUP, Group("The person, by InfuseNet", PERSON, (("net", "pose"), ("control",)))),
        (PICTURE_GROUP,),
    ),
    runs=False,
)

IP_ADAPTER = Plan(
    "flux_ipadapter",
    "FaceCDM 17 - FLUX.1 with IP-Adapter",
    f"""## A picture with FLUX.1 and IP-Adapter

This workflow needs ComfyUI 0.29 or newer.

InstantX's IP-Adapter encodes the whole picture: what it shows, its colours and its style. Lower image_strength, or \
raise start_at, if the prompt is ignored. It keeps no identity: for a person's face put a second Apply FaceCDM \
with PuLID before or after it.

XLabs' flux-ip-adapter-v2.safetensors is smaller (1 GB): choose it in Load FaceCDM Adapter, and auto as vision_tower.

{CFG}""",
    base()
    | {"photo": n("LoadImage", "Reference", image="faceworld.webp")}
    | adapter("ipadapter/instantx-flux-ip-adapter.bin", SIGLIP_SO400M)
    | {
        "apply": n(
            "FaceCDMApply",
            model="@base",
            adapter="@adapter",
            clip_vision="@adapter:2",
            image="@photo",
            image_strength=0.7,
        )
    }
    | prompt("watercolour painting of a person in a garden, soft daylight", 3.5)
    | result("ipadapter flux"),
    (
        (Group("Your picture", PHOTO, (("photo",),)), BASE_GROUP),
        (PROMPT_GROUP, PERSON_GROUP),
        (PICTURE_GROUP,),
    ),
    runs=False,
)

ALL = (PULID, WITHANYONE, INFINITE_YOU, IP_ADAPTER)
