"""The workflows on the demo model: everything that they need comes with the pack."""

from facecdm.adapter.native import read_config
from facecdm.bases.demo import DEMO as DEMO_BASE
from facecdm.demo.paths import ADAPTER

from .parts import (
    LOCATION_GROUP,
    MODEL_GROUP,
    MODEL_WIDE,
    PERSON,
    PERSON_GROUP,
    PHOTO,
    PHOTO_GROUP,
    PICTURE,
    PICTURE_GROUP,
    PICTURE_WIDE,
    PROMPT,
    PROMPT_GROUP,
    Group,
    Node,
    Plan,
    n,
    photo_of,
    pose_of,
    prompts,
    sampling,
)
from .published import PLUS_V2

SIDE = DEMO_BASE.resolution  # of the pictures, in pixels
DEMO_PROMPT = "a young woman, long red hair, smiling, green striped shirt, plain blue background"
DEMO_SAMPLER = {"seed": 1, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "karras"}
# From a picture. With karras any denoise would start in almost pure noise, since the model has zero terminal SNR.
DEMO_RESAMPLER = DEMO_SAMPLER | {"scheduler": "normal"}
DEMO = {"base": n("FaceCDMLoadDemoModel")}
ANALYZER = {"analyzer": n("FaceCDMLoadFaceAnalyzer", pack="buffalo_s")}
DEMO_ADAPTER = {"adapter": n("FaceCDMLoadDemoAdapter", model="@base")}
# Crops with the face in the middle and as large as in the demo model's portraits.
FRAMED = {"crop_margin": 0.6}


def demo_person(pose: str = "@pose:1", faces: str = "@faces") -> dict[str, Node]:
    """`pose` gives the face location."""
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


DEMO_SIZE = {"size": n("EmptyLatentImage", "Size", width=SIDE, height=SIDE)}

LOCATED = (
    "pose gives it the face location; without pose it finds the face by itself, and the similarity is lower."
    if read_config(ADAPTER).location_channels
    else "It needs a face location, which pose gives."
)
DEMO_MODEL_ADAPTER = f"""Load FaceCDM Demo Adapter was trained on synthetic faces only, so photos of real people are \
not matched (for these run `python -m facecdm get {PLUS_V2.name}` in the pack's folder, and open {PLUS_V2.title}). \
{LOCATED}"""
DEMO_MODEL = f"""The small demo model makes portraits of {SIDE} × {SIDE} pixels, and knows the words of its training \
captions only (the help page of Load FaceCDM Demo Model lists them)."""
NO_PHOTO = "No photo at hand? custom_nodes/facecdm/facecdm/demo/assets has images of people who do not exist."

PORTRAIT = Plan(
    "portrait",
    "FaceCDM 01 - Portrait from a photo (demo)",
    f"""## A portrait from your photo

1. Choose your photo in Reference (of a person who agreed). Detect & Embed Faces shows the face that it found.
2. Change the text in Prompt.
3. Run. The picture appears in Save Image and in output/FaceCDM.

Extract Pose says where the face will be: in the middle, as in the crop that Detect & Embed Faces made. Connect \
another portrait for another location.

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
    | prompts(DEMO_PROMPT, "", "@base:1")
    | DEMO_SIZE
    | sampling("@apply", vae="@base:2", prefix="portrait", **DEMO_SAMPLER),
    ((PHOTO_GROUP, MODEL_GROUP), (PERSON_GROUP, LOCATION_GROUP), (PROMPT_GROUP, PICTURE_WIDE)),
)

TWO_PEOPLE = Plan(
    "two_people",
    "FaceCDM 03 - Two people (demo)",
    f"""## Two people in one picture

1. Choose a photo of each person on the left.
2. Person Regions sets where they are: a line of four numbers each, as fractions of the picture. Its preview shows them.
3. Each person has a prompt; Conditioning (Set Mask) with "mask bounds" applies it to their region.
4. Apply FaceCDM to People puts the first face into the first region, and so on. Regions never overlap.
5. Extract Pose takes the face locations from the two crops side by side; any picture of two people does as well.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of("photo_1", "Left", faces="faces_1", **FRAMED)
    | photo_of("photo_2", "Right", "faceworld-2.webp", "faces_2", **FRAMED)
    | DEMO_ADAPTER
    | {
        "regions": n("FaceCDMPersonRegions", width=2 * SIDE, height=SIDE, boxes="0 0 0.5 1\n0.5 0 1 1", softness=0.2),
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
            "Prompt, left",
            clip="@base:1",
            text="a young woman, long red hair, smiling, green shirt, plain blue background",
        ),
        "prompt_2": n(
            "CLIPTextEncode",
            "Prompt, right",
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
        "size": n("EmptyLatentImage", "Size", width=2 * SIDE, height=SIDE),
    }
    | pose_of("@crops")
    | sampling("@apply", positive="@both", vae="@base:2", prefix="two people", **DEMO_SAMPLER),
    (
        (Group("Photos", PHOTO, (("photo_1", "photo_2"), ("faces_1",), ("faces_2",))), MODEL_WIDE),
        (Group("Regions and faces", PERSON, (("regions", "apply"), ("crops", "pose"))),),
        (
            Group(
                "A prompt for each",
                PROMPT,
                (("prompt_1", "prompt_2", "negative", "set_1", "set_2", "both", "size"),),
            ),
        ),
        (PICTURE_GROUP,),
    ),
)

FACE_LIBRARY = Plan(
    "face_library",
    "FaceCDM 04 - Face from two photos, saved (demo)",
    f"""## A library of faces

Two photos of one person become one face: Combine Faces takes their mean, which is steadier than either. Save Faces \
writes it as a small file to models/facecdm_faces.

Later you need no photos: replace everything on the left but the analyzer (it finds the pose) by Load Faces, refresh \
its list (R), and choose the file.

Compare Faces shows the similarity of the two photos: two of one person should score well above two of different \
people.

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
    | prompts(DEMO_PROMPT, "", "@base:1")
    | DEMO_SIZE
    | sampling("@apply", vae="@base:2", prefix="from the library", **DEMO_SAMPLER),
    (
        (Group("Photos of one person", PHOTO, (("photo", "photo_2"), ("faces_1",), ("faces_2",))), MODEL_WIDE),
        (Group("One face of both", PERSON, (("combine", "save_faces", "compare"),)),),
        (Group("Face location", PHOTO, (("picture", "pose"),)),),
        (PROMPT_GROUP, PERSON_GROUP),
        (PICTURE_GROUP,),
    ),
)

DETAIL = Plan(
    "detail_faces",
    "FaceCDM 05 - More detail in faces (demo)",
    f"""## Faces with more detail

The picture is sampled as usual. Detail Faces then finds every face in it, cuts it out, samples it again at a larger \
size with the same model and person, and blends it back. Small faces gain most.

denoise says how much may change: 0.3 sharpens, 0.45 repairs, 0.6 and more changes the face. A picture without a face \
stays as it is.

{DEMO_MODEL} guide_size is {SIDE} here; use 512 for SD1.5 and 768 – 1024 for SDXL.

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of(**FRAMED)
    | DEMO_ADAPTER
    | pose_of("@faces:1")
    | demo_person()
    | prompts(DEMO_PROMPT, "", "@base:1")
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
            guide_size=SIDE,
            padding=0.3,
            min_score=0.3,
            denoise=0.35,
        ),
        "save": n("SaveImage", filename_prefix="FaceCDM/detailed", images="@detail"),
    },
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (PERSON_GROUP, LOCATION_GROUP),
        (PROMPT_GROUP, Group("The picture", PICTURE, (("sampler", "decode"),))),
        (Group("Its faces, sampled again", PICTURE, (("detail",), ("save",))),),
    ),
)

IMG2IMG = Plan(
    "img2img",
    "FaceCDM 06 - Image to image (demo)",
    f"""## Image to image with your person

The picture to start from is encoded and noised; denoise in KSampler says how much of it may change: 0.4 keeps nearly \
all, 0.6 the composition, 0.8 hardly anything. The scheduler is normal: with the demo model karras would keep nothing.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | ANALYZER
    | photo_of()
    | DEMO_ADAPTER
    | demo_person()
    | pose_of("@scale")
    | prompts(DEMO_PROMPT, "", "@base:1")
    | {
        "start": n("LoadImage", "Start from", image="faceworld-2.webp"),
        "scale": n("ImageScale", upscale_method="lanczos", width=SIDE, height=SIDE, crop="center", image="@start"),
        "encode": n("VAEEncode", pixels="@scale", vae="@base:2"),
    }
    | sampling("@apply", latent="@encode", vae="@base:2", prefix="img2img", **DEMO_RESAMPLER, denoise=0.6),
    (
        (PHOTO_GROUP, MODEL_GROUP),
        (PERSON_GROUP, LOCATION_GROUP),
        (Group("Your prompt", PROMPT, (("prompt", "negative"),)), Group("Start from", PHOTO, (("start", "scale"),))),
        (Group("The picture", PICTURE, (("encode", "sampler", "decode", "save"),)),),
    ),
)

INPAINT = Plan(
    "inpaint",
    "FaceCDM 07 - Replace a face (demo)",
    f"""## Another face in a picture

Detect & Embed Faces finds the face in the picture and gives its mask. Only that part is sampled again, with your \
person; the rest is restored pixel by pixel. A mask of your own (Open in MaskEditor) works as well.

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
    | prompts(DEMO_PROMPT, "", "@base:1")
    | {
        "start": n("LoadImage", "Picture", image="faceworld-2.webp"),
        "scale": n("ImageScale", upscale_method="lanczos", width=SIDE, height=SIDE, crop="center", image="@start"),
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
        (Group("Your prompt", PROMPT, (("prompt", "negative"),)), LOCATION_GROUP),
        (Group("The picture and its face", PHOTO, (("start", "scale", "encode", "masked"), ("where",))),),
        (PERSON_GROUP, Group("The new face", PICTURE, (("sampler", "decode"),))),
        (Group("The new picture", PICTURE, (("composite", "save"),)),),
    ),
)

POSE = Plan(
    "portrait_pose",
    "FaceCDM 02 - Portrait in the pose of a picture (demo)",
    f"""## A portrait in another picture's pose

Extract Pose finds the face's key points in the picture on the right and draws them for the pose ControlNet. Edit Pose \
can turn the head first: turn_yaw 20 turns it to one side, mirror to the other.

strength of Apply ControlNet says how strictly the pose is followed. pose of Apply FaceCDM gives the adapter the face \
location.

{DEMO_MODEL}

{DEMO_MODEL_ADAPTER}

{NO_PHOTO}""",
    DEMO
    | {"analyzer": n("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", landmarks=True)}
    | photo_of()
    | DEMO_ADAPTER
    | demo_person("@edit:1")
    | prompts(DEMO_PROMPT, "", "@base:1")
    | DEMO_SIZE
    | {
        "picture": n("LoadImage", "Pose", image="faceworld-2.webp"),
        **pose_of("@picture"),
        "edit": n("FaceCDMEditPose", pose="@pose:1", width=SIDE, height=SIDE),
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
        (PROMPT_GROUP, PERSON_GROUP),
        (Group("The pose", PHOTO, (("picture", "pose"), ("edit", "net", "control"))),),
        (PICTURE_GROUP,),
    ),
)

ALL = (PORTRAIT, POSE, TWO_PEOPLE, FACE_LIBRARY, DETAIL, IMG2IMG, INPAINT)
