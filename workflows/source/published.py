"""The workflows on SD1.5 and SDXL with published adapters; the note of each ends in the list of its files."""

from facecdm.models.catalogue import EVA, VIT_H

from .parts import (
    MODEL_GROUP,
    PERSON_GROUP,
    PHOTO,
    PHOTO_GROUP,
    PICTURE,
    PICTURE_GROUP,
    PROMPT_GROUP,
    Group,
    Node,
    Plan,
    n,
    photo_of,
    prompts,
    sampling,
)

SD15, SDXL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"
REAL_PROMPT = "portrait photo of a person in a green shirt, soft daylight, plain blue background, 50 mm lens"
REAL_NEGATIVE = "blurry, low quality, deformed, watermark, text"
REAL_SAMPLER = {"seed": 1, "steps": 30, "cfg": 6.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}


def checkpoint(name: str, size: int) -> dict[str, Node]:
    return {
        "base": n("CheckpointLoaderSimple", ckpt_name=name),
        "size": n("EmptyLatentImage", "Size", width=size, height=size),
    }


def adapter(name: str, tower: str = "auto") -> dict[str, Node]:
    return {"adapter": n("FaceCDMLoadAdapter", name=name, vision_tower=tower)}


def pack(name: str, landmarks: bool = False) -> dict[str, Node]:
    return {"analyzer": n("FaceCDMLoadFaceAnalyzer", pack=name, landmarks=landmarks)}


def with_picture(**settings: float) -> dict[str, Node]:
    """Apply FaceCDM for an adapter that encodes the face's picture, too."""
    faces = {"faces": "@faces", "clip_vision": "@adapter:2", "image": "@photo"}
    return {"apply": n("FaceCDMApply", model="@base", adapter="@adapter", **faces, **settings)}


def to_controlnet(positive: str, negative: str, **more) -> dict[str, Node]:
    """Apply FaceCDM to ControlNet, for the nodes "net", "pose", "adapter" and "faces"."""
    own = {"control_net": "@net", "image": "@pose", "adapter": "@adapter", "faces": "@faces"}
    return {"control": n("FaceCDMApplyControlNet", positive=positive, negative=negative, **own, **more)}


def real(prefix: str, **changes) -> dict[str, Node]:
    return prompts(REAL_PROMPT, REAL_NEGATIVE, "@base:1") | sampling(
        "@apply", vae="@base:2", prefix=prefix, **REAL_SAMPLER | changes
    )


FACEID = Plan(
    "sd15_faceid",
    "FaceCDM 08 - SD1.5 with FaceID",
    """## Your photo with SD1.5 and FaceID

The face sets the identity; hair, clothes and place come from your prompt. With face_strength 0.7 the prompt counts \
more. FaceID's LoRA is in the adapter's file and is applied with it.""",
    checkpoint(SD15, 512)
    | pack("buffalo_l")
    | photo_of()
    | adapter("ipadapter/ip-adapter-faceid_sd15.bin")
    | {"apply": n("FaceCDMApply", model="@base", adapter="@adapter", faces="@faces", face_strength=0.8)}
    | real("faceid sd15"),
    ((PHOTO_GROUP, MODEL_GROUP), (PROMPT_GROUP, PERSON_GROUP), (PICTURE_GROUP,)),
    runs=False,
)

PLUS_V2 = Plan(
    "sdxl_faceid_plusv2",
    "FaceCDM 10 - SDXL with FaceID PlusV2",
    """## Your photo with SDXL and FaceID PlusV2

PlusV2 uses the image of the face beside its embedding, so Apply FaceCDM gets the photo and the CLIP vision model, \
which Load FaceCDM Adapter finds by itself.""",
    checkpoint(SDXL, 1024)
    | pack("buffalo_l")
    | photo_of()
    | adapter("ipadapter/ip-adapter-faceid-plusv2_sdxl.bin", VIT_H)
    | with_picture(face_strength=0.8)
    | real("faceid plusv2 sdxl"),
    ((PHOTO_GROUP, MODEL_GROUP), (PROMPT_GROUP, PERSON_GROUP), (PICTURE_GROUP,)),
    runs=False,
)

INSTANTID = Plan(
    "sdxl_instantid",
    "FaceCDM 11 - SDXL with InstantID",
    """## Your photo with SDXL and InstantID

InstantID conditions the base model on the face (Apply FaceCDM), and also its own ControlNet, which gets five key \
points of the face as its picture and the face in place of the prompt (Apply FaceCDM to ControlNet).

The key points set the pose and the size of the head. For another pose connect another picture to Extract Pose, or put \
Edit Pose after it. If the pose is followed too strictly, lower strength of Apply FaceCDM to ControlNet.

CFG 4 – 5 looks natural with InstantID.""",
    checkpoint(SDXL, 1024)
    | pack("antelopev2")
    | photo_of()
    | adapter("instantid/ip-adapter.bin")
    | {
        "apply": n("FaceCDMApply", model="@base", adapter="@adapter", faces="@faces", face_strength=0.8),
        "pose": n("FaceCDMExtractPose", image="@photo", analyzer="@analyzer", drawing="InstantID 5 points"),
        "net": n("ControlNetLoader", control_net_name="instantid/diffusion_pytorch_model.safetensors"),
        **to_controlnet("@prompt", "@negative"),
    }
    | prompts(REAL_PROMPT, REAL_NEGATIVE, "@base:1")
    | sampling(
        "@apply",
        positive="@control",
        negative="@control:1",
        vae="@base:2",
        prefix="instantid",
        **REAL_SAMPLER | {"cfg": 4.5},
    ),
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (PROMPT_GROUP, PERSON_GROUP),
        (Group("Key points and ControlNet", PHOTO, (("pose", "net", "control"),)),),
        (PICTURE_GROUP,),
    ),
    runs=False,
)

PULID = Plan(
    "sdxl_pulid",
    "FaceCDM 12 - SDXL with PuLID",
    """## Your photo with SDXL and PuLID

PuLID encodes the face on a plain background with EVA CLIP. If the prompt has too little effect, lower face_strength, \
or connect FaceCDM Apply Options with a balance below 0. projection there chooses PuLID's mode: the adapter's own is \
fidelity, token is style, none is neutral.""",
    checkpoint(SDXL, 1024)
    | pack("antelopev2")
    | photo_of()
    | adapter("pulid/ip-adapter_pulid_sdxl_fp16.safetensors", EVA)
    | with_picture(face_strength=0.8)
    | real("pulid"),
    ((PHOTO_GROUP, MODEL_GROUP), (PROMPT_GROUP, PERSON_GROUP), (PICTURE_GROUP,)),
    runs=False,
)


def posed(name: str, number: str, title: str, base: str, size: int, file: str, net: str) -> Plan:
    return Plan(
        name,
        f"FaceCDM {number} - {title} with FaceID in the pose of a picture",
        f"""## A portrait in another picture's pose, with {title}

Extract Pose draws the key points of the face in Pose for an OpenPose ControlNet; the identity comes from your photo. \
The key points of a face need no further files. For the whole body choose OpenPose or DWPose as detector; the help \
page of Extract Pose names the package and the model files that each needs. To turn the head or fit the pose to \
another size, put Edit Pose after Extract Pose.""",
        checkpoint(base, size)
        | pack("buffalo_l", True)
        | photo_of()
        | adapter(f"ipadapter/{file}")
        | {
            "apply": n("FaceCDMApply", model="@base", adapter="@adapter", faces="@faces", face_strength=0.8),
            "picture": n("LoadImage", "Pose", image="faceworld-2.webp"),
            "pose": n("FaceCDMExtractPose", image="@picture", analyzer="@analyzer"),
            "net": n("ControlNetLoader", control_net_name=net),
            "control": n(
                "ControlNetApplyAdvanced",
                positive="@prompt",
                negative="@negative",
                control_net="@net",
                image="@pose",
                vae="@base:2",
                strength=0.8,
                end_percent=0.8,
            ),
        }
        | prompts(REAL_PROMPT, REAL_NEGATIVE, "@base:1")
        | sampling(
            "@apply",
            positive="@control",
            negative="@control:1",
            vae="@base:2",
            prefix=name.replace("_", " "),
            **REAL_SAMPLER,
        ),
        (
            (PHOTO_GROUP, MODEL_GROUP),
            (PROMPT_GROUP, PERSON_GROUP),
            (Group("The pose", PHOTO, (("picture", "pose"),)),),
            (Group("ControlNet and picture", PICTURE, (("net", "control", "sampler"), ("decode", "save"))),),
        ),
        runs=False,
    )


SD15_POSE = posed(
    "sd15_pose",
    "09",
    "SD1.5",
    SD15,
    512,
    "ip-adapter-faceid_sd15.bin",
    "control_v11p_sd15_openpose_fp16.safetensors",
)
SDXL_POSE = posed(
    "sdxl_pose", "13", "SDXL", SDXL, 1024, "ip-adapter-faceid_sdxl.bin", "controlnet-openpose-sdxl-1.0.safetensors"
)

ALL = (FACEID, SD15_POSE, PLUS_V2, INSTANTID, PULID, SDXL_POSE)
