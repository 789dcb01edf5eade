"""What the shipped workflows are: nodes, links, and where they stand. `draw_workflows.py` makes the JSON of it.

A value "@name" or "@name:1" is a link to an output of another node; inputs that are not named keep their default.
"""

from dataclasses import dataclass, field

PHOTO, MODEL, WORDS, PERSON, PICTURE = "#3f789e", "#8A8", "#A88", "#88A", "#b58b2a"
DEMO_WORDS = "a young woman, long red hair, smiling, green striped shirt, plain blue background"
DEMO_SAMPLER = {"seed": 1, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "karras"}
# From a picture: karras would begin in almost pure noise at any denoise, since the demo model knows zero SNR.
DEMO_RESAMPLER = DEMO_SAMPLER | {"scheduler": "normal"}
FACE = {"analyzer": "@analyzer"}
# Inputs that name a file which the user brings → the folder of models that it lies in.
BROUGHT = {"ckpt_name": "checkpoints", "control_net_name": "controlnet", "clip_name": "clip_vision"}


def brought(api: dict) -> set[str]:
    """Files below models/ that a workflow in API format names and the pack does not have."""
    files = set()
    for node in api.values():
        inputs = node["inputs"]
        files |= {f"{BROUGHT[key]}/{inputs[key]}" for key in BROUGHT.keys() & inputs.keys()}
        if node["class_type"] == "FaceCDMLoadAdapter":
            files.add(inputs["name"])
        if node["class_type"] == "FaceCDMLoadEvaClip":
            files.add(f"clip_vision/{inputs['name']}")
    return files


@dataclass(frozen=True)
class Node:
    kind: str
    title: str | None
    inputs: dict


@dataclass(frozen=True)
class Group:
    """`columns` of node names, from left to right, each from top to bottom."""

    title: str
    colour: str
    columns: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plan:
    """`groups` stand in stacks, from left to right. `runs`: all that it needs comes with the pack."""

    name: str
    note: str
    nodes: dict[str, Node]
    groups: tuple[tuple[Group, ...], ...]
    runs: bool = True
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def api(self) -> dict:
        """API JSON, without the inputs that keep their defaults."""
        ids = {name: str(number) for number, name in enumerate(self.nodes, 1)}

        def value(given):
            if not (isinstance(given, str) and given.startswith("@")):
                return given
            name, _, slot = given[1:].partition(":")
            return [ids[name], int(slot or 0)]

        return {
            ids[name]: {
                "class_type": node.kind,
                "_meta": {"title": node.title} if node.title else {},
                "inputs": {key: value(given) for key, given in node.inputs.items()},
            }
            for name, node in self.nodes.items()
        }


def n(kind: str, title: str | None = None, **inputs) -> Node:
    return Node(kind, title, inputs)


def words(positive: str, negative: str, clip: str) -> dict[str, Node]:
    return {
        "prompt": n("CLIPTextEncode", "Prompt", text=positive, clip=clip),
        "negative": n("CLIPTextEncode", "Negative prompt", text=negative, clip=clip),
    }


def sampling(
    model: str, *, positive="@prompt", negative="@negative", latent="@size", vae: str, prefix: str, **settings
) -> dict[str, Node]:
    given = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return {
        "sampler": n("KSampler", **given, **settings),
        "decode": n("VAEDecode", samples="@sampler", vae=vae),
        "save": n("SaveImage", filename_prefix=f"FaceCDM/{prefix}", images="@decode"),
    }


def pose_of(image: str) -> dict[str, Node]:
    return {"pose": n("FaceCDMExtractPose", image=image, analyzer="@analyzer")}


def photo_of(
    name: str = "photo", title: str = "Reference", file: str = "faceworld.webp", faces: str = "faces", **settings
) -> dict[str, Node]:
    return {
        name: n("LoadImage", title, image=file),
        faces: n("FaceCDMDetectFaces", analyzer="@analyzer", image=f"@{name}", no_face="skip", **settings),
    }


# What every demo begins with.
DEMO = {"base": n("FaceCDMLoadDemoModel")}
ANALYZER = {"analyzer": n("FaceCDMLoadFaceAnalyzer", pack="buffalo_s")}
DEMO_ADAPTER = {"adapter": n("FaceCDMLoadDemoAdapter", model="@base")}
# Crops in which a face is as large as in the demo model's portraits, and in the middle, whatever photo it is from.
FRAMED = {"crop_margin": 0.6}


def demo_person(pose: str = "@pose:1", faces: str = "@faces") -> dict[str, Node]:
    """Who is told by `pose` where the face is to be."""
    return {
        "apply": n(
            "FaceCDMApply",
            model="@adapter",
            adapter="@adapter:1",
            faces=faces,
            clip_vision="@base:3",
            image="@photo",
            pose=pose,
        )
    }


DEMO_SIZE = {"size": n("EmptyLatentImage", "Size", width=128, height=128)}

PHOTO_GROUP = Group("Your photo", PHOTO, (("photo", "analyzer"), ("faces",)))
MODEL_GROUP = Group("Model and adapter", MODEL, (("base",), ("adapter",)))
PLACE_GROUP = Group("Where the face is to be", PHOTO, (("pose",),))
PERSON_GROUP = Group("The person in the model", PERSON, (("apply",),))
WORDS_GROUP = Group("Your words", WORDS, (("prompt", "negative", "size"),))
PICTURE_GROUP = Group("The picture", PICTURE, (("sampler",), ("decode", "save")))

DEMO_MODEL_ADAPTER = """Load Demo Adapter was trained on people who do not exist; a photo of a real one shows less. It \
shows nobody unless pose tells it where the face is to be. For more take your own checkpoint and put Load Adapter with \
a published adapter in its place, or train one (docs/training.md)."""
DEMO_MODEL = """The model here is the small demo model: portraits of 128 × 128 pixels, and it knows the words of its \
own captions only (the help page of Load Demo Model lists them). For your own checkpoint put Load Checkpoint, and a \
CLIP vision model, in its place."""
NO_PHOTO = "No photo at hand? custom_nodes/facecdm/facecdm/demo/assets has pictures of people who do not exist."

PORTRAIT = Plan(
    "portrait",
    f"""## Your photo, your words

1. Choose your photo in Reference (of a person who agreed). Detect & Embed Faces shows the face it took.
2. Change the words in Prompt.
3. Run. The picture stands in Save Image and in output/FaceCDM.

Extract Pose says where the face is to be: in the middle, as in the crop that Detect & Embed Faces made. Give it any \
portrait for another place.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | {"photo": n("LoadImage", "Reference", image="faceworld.webp")}
    | ANALYZER
    | {"faces": n("FaceCDMDetectFaces", analyzer="@analyzer", image="@photo", **FRAMED)}
    | DEMO_ADAPTER
    | pose_of("@faces:1")
    | demo_person()
    | words(DEMO_WORDS, "", "@base:1")
    | DEMO_SIZE
    | sampling("@apply", vae="@base:2", prefix="portrait", **DEMO_SAMPLER),
    ((PHOTO_GROUP, MODEL_GROUP), (PLACE_GROUP, PERSON_GROUP), (WORDS_GROUP,), (PICTURE_GROUP,)),
)

TWO_PEOPLE = Plan(
    "two_people",
    f"""## Two people in one picture

1. A photo for each person on the left.
2. Person Regions says where they stand: a line of four numbers each, as parts of the picture. Its preview shows them.
3. Each person has their own words; Conditioning (Set Mask) with "mask bounds" draws each in their own part.
4. Apply FaceCDM to People puts the first faces into the first region, and so on. Their regions share a border and \
never overlap, so nobody's face leaks into another's.
5. Where each face is to be, their crops side by side say here; any picture of two people will do.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of("photo_1", "Left", faces="faces_1", **FRAMED)
    | photo_of("photo_2", "Right", "faceworld-2.webp", "faces_2", **FRAMED)
    | DEMO_ADAPTER
    | {
        "regions": n("FaceCDMPersonRegions", width=256, height=128, boxes="0 0 0.5 1\n0.5 0 1 1", softness=0.2),
        "apply": n(
            "FaceCDMApplyPeople",
            model="@adapter",
            adapter="@adapter:1",
            masks="@regions",
            faces_1="@faces_1",
            faces_2="@faces_2",
            clip_vision="@base:3",
            image_1="@photo_1",
            image_2="@photo_2",
            pose="@pose:1",
        ),
        "crops": n("ImageStitch", image1="@faces_1:1", image2="@faces_2:1", direction="right"),
        "prompt_1": n(
            "CLIPTextEncode",
            "Words, left",
            clip="@base:1",
            text="a young woman, long red hair, smiling, green shirt, plain blue background",
        ),
        "prompt_2": n(
            "CLIPTextEncode",
            "Words, right",
            clip="@base:1",
            text="a middle-aged man, short black hair, neutral, white shirt, plain blue background",
        ),
        "negative": n("CLIPTextEncode", "Negative prompt", text="", clip="@base:1"),
        "set_1": n(
            "ConditioningSetMask", "Left", conditioning="@prompt_1", mask="@regions:1", set_cond_area="mask bounds"
        ),
        "set_2": n(
            "ConditioningSetMask", "Right", conditioning="@prompt_2", mask="@regions:2", set_cond_area="mask bounds"
        ),
        "both": n("ConditioningCombine", conditioning_1="@set_1", conditioning_2="@set_2"),
        "size": n("EmptyLatentImage", "Size", width=256, height=128),
    }
    | pose_of("@crops")
    | sampling("@apply", positive="@both", vae="@base:2", prefix="two people", **DEMO_SAMPLER),
    (
        (Group("Photos", PHOTO, (("photo_1", "photo_2", "analyzer"), ("faces_1", "faces_2"))),),
        (Group("Who is where", PERSON, (("regions", "crops"), ("pose",), ("apply",))), MODEL_GROUP),
        (Group("Words for each", WORDS, (("prompt_1", "prompt_2", "negative"), ("set_1", "set_2", "both", "size"))),),
        (PICTURE_GROUP,),
    ),
)

FACE_LIBRARY = Plan(
    "face_library",
    f"""## A library of faces

Two photos of one person become one face: Combine Faces takes their mean, which is steadier than either. Save Faces \
keeps it as a small file in models/facecdm_faces.

Afterwards the photos are not needed: put Load Faces in the place of everything on the left but the analyzer (which \
finds the pose), refresh its list (R), and choose the file.

Compare Faces shows how alike the two photos are: two of one person should be well above two of different people.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of("photo", "First photo", faces="faces_1")
    | photo_of("photo_2", "Second photo", "faceworld-b.webp", "faces_2")
    | {
        "combine": n("FaceCDMCombineFaces", faces_1="@faces_1", faces_2="@faces_2"),
        "compare": n("FaceCDMCompareFaces", faces_a="@faces_1", faces_b="@faces_2"),
        "save_faces": n("FaceCDMSaveFaces", faces="@combine", name="somebody"),
    }
    | DEMO_ADAPTER
    | {"picture": n("LoadImage", "Pose", image="faceworld-2.webp")}
    | pose_of("@picture")
    | demo_person(faces="@save_faces")
    | words(DEMO_WORDS, "", "@base:1")
    | DEMO_SIZE
    | sampling("@apply", vae="@base:2", prefix="from the library", **DEMO_SAMPLER),
    (
        (Group("Photos of one person", PHOTO, (("photo", "photo_2", "analyzer"), ("faces_1", "faces_2"))),),
        (Group("One face of both, kept", PERSON, (("combine", "save_faces"), ("compare",))), MODEL_GROUP),
        (Group("Where the face is to be", PHOTO, (("picture",), ("pose",))), PERSON_GROUP),
        (WORDS_GROUP,),
        (PICTURE_GROUP,),
    ),
)

DETAIL = Plan(
    "detail_faces",
    f"""## Faces with more detail

The picture is made as always. Detail Faces then finds every face in it, cuts it out, samples it anew at a larger size \
with the same model and the same person, and blends it back. Small faces gain most.

denoise says how much is made anew: 0.3 sharpens, 0.45 mends, 0.6 and more changes the face. A picture without a face \
stays as it is.

{DEMO_MODEL} guide_size is 128 here; take 512 for SD1.5 and 768 – 1024 for SDXL.

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of(**FRAMED)
    | DEMO_ADAPTER
    | pose_of("@faces:1")
    | demo_person()
    | words(DEMO_WORDS, "", "@base:1")
    | DEMO_SIZE
    | {
        "sampler": n(
            "KSampler", model="@apply", positive="@prompt", negative="@negative", latent_image="@size", **DEMO_SAMPLER
        ),
        "decode": n("VAEDecode", samples="@sampler", vae="@base:2"),
        "detail": n(
            "FaceCDMDetailFaces",
            image="@decode",
            model="@apply",
            positive="@prompt",
            negative="@negative",
            vae="@base:2",
            analyzer="@analyzer",
            **DEMO_RESAMPLER | {"seed": 2, "steps": 12},
            guide_size=128,
            padding=0.3,
            min_score=0.3,
            denoise=0.35,
        ),
        "save": n("SaveImage", filename_prefix="FaceCDM/detailed", images="@detail"),
    },
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (PLACE_GROUP, PERSON_GROUP),
        (WORDS_GROUP,),
        (Group("The picture", PICTURE, (("sampler", "decode"), ("detail",), ("save",))),),
    ),
)

IMG2IMG = Plan(
    "img2img",
    f"""## A picture made anew, with your person

The picture to start from is encoded and noised; denoise in KSampler says how much of it may change: 0.4 keeps nearly \
all, 0.6 the composition, 0.8 hardly anything. The scheduler is normal, since karras would keep nothing of it with the \
demo model.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of()
    | DEMO_ADAPTER
    | demo_person()
    | pose_of("@scale")
    | words(DEMO_WORDS, "", "@base:1")
    | {
        "start": n("LoadImage", "Start from", image="faceworld-2.webp"),
        "scale": n("ImageScale", upscale_method="lanczos", width=128, height=128, crop="center", image="@start"),
        "encode": n("VAEEncode", pixels="@scale", vae="@base:2"),
    }
    | sampling("@apply", latent="@encode", vae="@base:2", prefix="img2img", **DEMO_RESAMPLER, denoise=0.6),
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (Group("Your words", WORDS, (("prompt", "negative"),)), PERSON_GROUP),
        (Group("Start from", PHOTO, (("start", "scale", "encode"), ("pose",))),),
        (PICTURE_GROUP,),
    ),
)

INPAINT = Plan(
    "inpaint",
    f"""## Another face in a picture

Detect & Embed Faces finds the face in the picture and gives its mask; only there the picture is made anew, with your \
person. The rest is put back pixel by pixel. A mask of your own (Open in MaskEditor) does as well.

mask_grow says how much around the face is replaced.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of()
    | DEMO_ADAPTER
    | demo_person()
    | pose_of("@scale")
    | words(DEMO_WORDS, "", "@base:1")
    | {
        "start": n("LoadImage", "Picture", image="faceworld-2.webp"),
        "scale": n("ImageScale", upscale_method="lanczos", width=128, height=128, crop="center", image="@start"),
        "where": n(
            "FaceCDMDetectFaces",
            "The face to replace",
            analyzer="@analyzer",
            image="@scale",
            mask_grow=1.3,
            mask_feather=0.3,
        ),
        "encode": n("VAEEncode", pixels="@scale", vae="@base:2"),
        "masked": n("SetLatentNoiseMask", samples="@encode", mask="@where:2"),
        "sampler": n(
            "KSampler",
            model="@apply",
            positive="@prompt",
            negative="@negative",
            latent_image="@masked",
            **DEMO_SAMPLER,
            denoise=0.8,
        ),
        "decode": n("VAEDecode", samples="@sampler", vae="@base:2"),
        "composite": n(
            "ImageCompositeMasked",
            destination="@scale",
            source="@decode",
            mask="@where:2",
            x=0,
            y=0,
            resize_source=False,
        ),
        "save": n("SaveImage", filename_prefix="FaceCDM/inpainted", images="@composite"),
    },
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (Group("Your words", WORDS, (("prompt", "negative"),)), PERSON_GROUP),
        (Group("The picture and its face", PHOTO, (("start", "scale", "pose"), ("where",))),),
        (Group("The new picture", PICTURE, (("encode", "masked", "sampler"), ("decode", "composite", "save"))),),
    ),
)

POSE = Plan(
    "portrait_pose",
    f"""## Your photo, your words, another picture's pose

Extract Pose finds the face's key points in the picture on the right and draws them for the pose ControlNet. Edit Pose \
can turn the head first: turn_yaw 20 looks to the side, mirror looks to the other one.

strength of Apply ControlNet says how strictly the pose is kept. pose of Apply FaceCDM tells the adapter, too, where \
the face is to be.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | {"analyzer": n("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", landmarks=True)}
    | photo_of()
    | DEMO_ADAPTER
    | demo_person("@edit:1")
    | words(DEMO_WORDS, "", "@base:1")
    | DEMO_SIZE
    | {
        "picture": n("LoadImage", "Pose", image="faceworld-2.webp"),
        **pose_of("@picture"),
        "edit": n("FaceCDMEditPose", pose="@pose:1", width=128, height=128),
        "net": n("FaceCDMLoadDemoPose"),
        "control": n(
            "ControlNetApplyAdvanced",
            positive="@prompt",
            negative="@negative",
            control_net="@net",
            image="@edit",
            vae="@base:2",
        ),
    }
    | sampling("@apply", positive="@control", negative="@control:1", vae="@base:2", prefix="posed", **DEMO_SAMPLER),
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (WORDS_GROUP, PERSON_GROUP),
        (Group("The pose", PHOTO, (("picture", "net", "control"), ("pose",), ("edit",))),),
        (PICTURE_GROUP,),
    ),
)

# ---- bases that a user has: these need files that do not come with the pack, and each note says which ----

SD15, SDXL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"
REAL_WORDS = "portrait photo of a person in a green shirt, soft daylight, plain blue background, 50 mm lens"
REAL_NEGATIVE = "blurry, low quality, deformed, watermark, text"
REAL_SAMPLER = {"seed": 1, "steps": 30, "cfg": 6.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
REAL_MODEL = Group("Model and adapter", MODEL, (("base",), ("adapter",)))


def checkpoint(name: str, size: int) -> dict[str, Node]:
    return {
        "base": n("CheckpointLoaderSimple", ckpt_name=name),
        "size": n("EmptyLatentImage", "Size", width=size, height=size),
    }


def adapter(name: str) -> dict[str, Node]:
    return {"adapter": n("FaceCDMLoadAdapter", name=name)}


def pack(name: str, landmarks: bool = False) -> dict[str, Node]:
    return {"analyzer": n("FaceCDMLoadFaceAnalyzer", pack=name, landmarks=landmarks)}


def real(prefix: str, **changes) -> dict[str, Node]:
    return words(REAL_WORDS, REAL_NEGATIVE, "@base:1") | sampling(
        "@apply", vae="@base:2", prefix=prefix, **REAL_SAMPLER | changes
    )


def files(*lines: str) -> str:
    return "It needs:\n\n" + "\n".join(f"- {line}" for line in lines)


BUFFALO = "models/insightface/models/buffalo_l (InsightFace; weights for non-commercial research only)"
ANTELOPE = BUFFALO.replace("buffalo_l", "antelopev2")
SD15_FILE = f"models/checkpoints/{SD15}, or any SD1.5"
SDXL_FILE = f"models/checkpoints/{SDXL}, or any SDXL"

FACEID = Plan(
    "sd15_faceid",
    f"""## Your photo with SD1.5 and FaceID

The face decides who it is; hair, clothes and place come from your words. face_strength 0.7 leaves the words more \
room. The LoRA of FaceID is in the adapter's own file and is applied with it.

{files(SD15_FILE, "models/ipadapter/ip-adapter-faceid_sd15.bin", BUFFALO)}""",
    checkpoint(SD15, 512)
    | pack("buffalo_l")
    | photo_of()
    | adapter("ipadapter/ip-adapter-faceid_sd15.bin")
    | {"apply": n("FaceCDMApply", model="@base", adapter="@adapter", faces="@faces", face_strength=0.8)}
    | real("faceid sd15"),
    ((PHOTO_GROUP, REAL_MODEL), (WORDS_GROUP, PERSON_GROUP), (PICTURE_GROUP,)),
    runs=False,
)

PLUS_V2 = Plan(
    "sdxl_faceid_plusv2",
    f"""## Your photo with SDXL and FaceID PlusV2

PlusV2 looks at the face as well as at its numbers, so it needs a CLIP vision model and the photo.

{
        files(
            SDXL_FILE,
            "models/ipadapter/ip-adapter-faceid-plusv2_sdxl.bin",
            "models/clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
            BUFFALO,
        )
    }""",
    checkpoint(SDXL, 1024)
    | pack("buffalo_l")
    | photo_of()
    | adapter("ipadapter/ip-adapter-faceid-plusv2_sdxl.bin")
    | {
        "vision": n("CLIPVisionLoader", clip_name="CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"),
        "apply": n(
            "FaceCDMApply",
            model="@base",
            adapter="@adapter",
            faces="@faces",
            clip_vision="@vision",
            image="@photo",
            face_strength=0.8,
        ),
    }
    | real("faceid plusv2 sdxl"),
    (
        (PHOTO_GROUP, Group("Model and adapter", MODEL, (("base", "vision"), ("adapter",)))),
        (WORDS_GROUP, PERSON_GROUP),
        (PICTURE_GROUP,),
    ),
    runs=False,
)

INSTANTID = Plan(
    "sdxl_instantid",
    f"""## Your photo with SDXL and InstantID

Two things show the person: the adapter in the model, and a ControlNet that sees five key points of the face and reads \
the face in place of the text. The key points set pose and size: take those of another picture to turn the head (Edit \
Pose), and lower strength of Apply FaceCDM to ControlNet where the pose sticks.

CFG 4 – 5 looks natural with InstantID.

{
        files(
            SDXL_FILE,
            "models/instantid/ip-adapter.bin",
            "models/controlnet/instantid/diffusion_pytorch_model.safetensors",
            ANTELOPE,
        )
    }""",
    checkpoint(SDXL, 1024)
    | pack("antelopev2")
    | photo_of()
    | adapter("instantid/ip-adapter.bin")
    | {
        "apply": n("FaceCDMApply", model="@base", adapter="@adapter", faces="@faces", face_strength=0.8),
        "pose": n("FaceCDMExtractPose", image="@photo", analyzer="@analyzer", drawing="InstantID 5 points"),
        "net": n("ControlNetLoader", control_net_name="instantid/diffusion_pytorch_model.safetensors"),
        "control": n(
            "FaceCDMApplyControlNet",
            positive="@prompt",
            negative="@negative",
            control_net="@net",
            image="@pose",
            adapter="@adapter",
            faces="@faces",
        ),
    }
    | words(REAL_WORDS, REAL_NEGATIVE, "@base:1")
    | sampling(
        "@apply",
        positive="@control",
        negative="@control:1",
        vae="@base:2",
        prefix="instantid",
        **REAL_SAMPLER | {"cfg": 4.5},
    ),
    (
        (PHOTO_GROUP, REAL_MODEL),
        (WORDS_GROUP, PERSON_GROUP),
        (Group("Key points and ControlNet", PHOTO, (("pose",), ("net", "control"))),),
        (PICTURE_GROUP,),
    ),
    runs=False,
)

PULID = Plan(
    "sdxl_pulid",
    f"""## Your photo with SDXL and PuLID

PuLID looks at the face on a plain ground through EVA CLIP. face_strength, and projection and balance of Apply \
Options, say how much of the words' own picture stays.

{
        files(
            SDXL_FILE,
            "models/pulid/ip-adapter_pulid_sdxl_fp16.safetensors",
            "models/clip_vision/EVA02_CLIP_L_336_psz14_s6B.pt",
            ANTELOPE,
        )
    }""",
    checkpoint(SDXL, 1024)
    | pack("antelopev2")
    | photo_of()
    | adapter("pulid/ip-adapter_pulid_sdxl_fp16.safetensors")
    | {
        "vision": n("FaceCDMLoadEvaClip", name="EVA02_CLIP_L_336_psz14_s6B.pt"),
        "apply": n(
            "FaceCDMApply",
            model="@base",
            adapter="@adapter",
            faces="@faces",
            clip_vision="@vision",
            image="@photo",
            face_strength=0.8,
        ),
    }
    | real("pulid"),
    (
        (PHOTO_GROUP, Group("Model and adapter", MODEL, (("base", "vision"), ("adapter",)))),
        (WORDS_GROUP, PERSON_GROUP),
        (PICTURE_GROUP,),
    ),
    runs=False,
)


def posed(name: str, title: str, base: str, base_file: str, size: int, file: str, net: str) -> Plan:
    return Plan(
        name,
        f"""## Your photo, another picture's pose, with {title}

Extract Pose draws the key points of the picture on the right for an OpenPose ControlNet; the face comes from your \
photo. The face's own key points need no further weights: choose OpenPose or DWPose as detector for the whole body. \
Edit Pose, put between, turns the head or fits the pose to another size.

{files(base_file, f"models/ipadapter/{file}", f"models/controlnet/{net}", BUFFALO)}""",
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
        | words(REAL_WORDS, REAL_NEGATIVE, "@base:1")
        | sampling(
            "@apply",
            positive="@control",
            negative="@control:1",
            vae="@base:2",
            prefix=name.replace("_", " "),
            **REAL_SAMPLER,
        ),
        (
            (PHOTO_GROUP, REAL_MODEL),
            (WORDS_GROUP, PERSON_GROUP),
            (Group("The pose", PHOTO, (("picture", "net", "control"), ("pose",))),),
            (PICTURE_GROUP,),
        ),
        runs=False,
    )


SD15_POSE = posed(
    "sd15_pose",
    "SD1.5",
    SD15,
    SD15_FILE,
    512,
    "ip-adapter-faceid_sd15.bin",
    "control_v11p_sd15_openpose_fp16.safetensors",
)
SDXL_POSE = posed(
    "sdxl_pose", "SDXL", SDXL, SDXL_FILE, 1024, "ip-adapter-faceid_sdxl.bin", "controlnet-openpose-sdxl-1.0.safetensors"
)

ALL = (
    PORTRAIT,
    POSE,
    TWO_PEOPLE,
    FACE_LIBRARY,
    DETAIL,
    IMG2IMG,
    INPAINT,
    FACEID,
    PLUS_V2,
    INSTANTID,
    PULID,
    SD15_POSE,
    SDXL_POSE,
)
PLANS = {plan.name: plan for plan in ALL}
