"""The one table of model files. Notes, docs, help pages, the doctor and `get` read it.

Links and sizes are those of ComfyUI-Manager's model list, ComfyUI's workflow templates, InsightFace's model server and
the README files of IPAdapter_plus, ComfyUI_InstantID, PuLID_ComfyUI, PuLID, WithAnyone, ComfyUI-WithAnyone and
ComfyUI_InfiniteYou, the code of facexlib, and the hub's file lists. The sizes of SD1.5, EVA-CLIP, PuLID, WithAnyone and
InstantX's IP-Adapter for SD3.5 assume two bytes per parameter; the sizes of WithAnyone's SigLIP and facexlib's
recogniser assume four; that of ConsistentID for SDXL assumes the precisions of its file for SD1.5. A licence that could
not be read at its source says "see the repository". No link was downloaded.
"""

from .model_file import PACK_FOLDER, ModelFile

APACHE, MIT = "Apache-2.0", "MIT"
OPENRAIL, OPENRAIL_PP = "CreativeML OpenRAIL-M", "CreativeML OpenRAIL++-M"
NON_COMMERCIAL = "non-commercial research only"
CC_BY_NC = "CC BY-NC 4.0"
FLUX_DEV = "FLUX.1-dev non-commercial"
UNREAD = "see the repository"

VIT_H = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
VIT_BIGG = "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors"
VIT_L = "clip-vit-large-patch14-336.bin"
EVA = "EVA02_CLIP_L_336_psz14_s6B.pt"
SIGLIP = "siglip-base-patch16-256-i18n.safetensors"
SIGLIP_SO400M = "sigclip_vision_patch14_384.safetensors"
CLIP_L = "clip-vit-large-patch14.safetensors"
IR_SE50_FILE = "recognition_arcface_ir_se50.pth"
CURRICULAR_FACE = "glint360k_curricular_face_r101_backbone.bin"


def _ip_adapter(name: str, folder: str, megabytes: float, purpose: str, tower: str = VIT_H) -> ModelFile:
    path = f"{folder}/{name}"
    return ModelFile("ipadapter", name, "h94/IP-Adapter", path, megabytes, APACHE, purpose, requires=(tower,))


def _flux_text(name: str, megabytes: float, purpose: str) -> ModelFile:
    return ModelFile("text_encoders", name, "comfyanonymous/flux_text_encoders", name, megabytes, UNREAD, purpose)


def _composition(name: str, megabytes: float, purpose: str) -> ModelFile:
    repository = "ostris/ip-composition-adapter"
    return ModelFile("ipadapter", name, repository, name, megabytes, UNREAD, purpose, requires=(VIT_H,))


def _face_id(name: str, megabytes: float, purpose: str, *towers: str) -> ModelFile:
    requires, repository = ("buffalo_l", *towers), "h94/IP-Adapter-FaceID"
    return ModelFile("ipadapter", name, repository, name, megabytes, NON_COMMERCIAL, purpose, requires=requires)


def _pulid(name: str, repository: str, megabytes: float, purpose: str) -> ModelFile:
    requires = ("antelopev2", EVA)
    return ModelFile("pulid", name, repository, name, megabytes, UNREAD, purpose, requires=requires)


def _consistent_id(name: str, megabytes: float, purpose: str) -> ModelFile:
    requires = ("buffalo_l", VIT_H)
    return ModelFile("ipadapter", name, "JackAILab/ConsistentID", name, megabytes, MIT, purpose, requires=requires)


def _aura_face(name: str, megabytes: float, purpose: str) -> ModelFile:
    return ModelFile(PACK_FOLDER, f"auraface/{name}", "fal/AuraFace-v1", name, megabytes, APACHE, purpose)


def _xlabs(name: str, megabytes: float, purpose: str) -> ModelFile:
    repository, path = f"XLabs-AI/{name}", "ip_adapter.safetensors"
    file = f"{name}.safetensors"
    return ModelFile("ipadapter", file, repository, path, megabytes, UNREAD, purpose, requires=(CLIP_L,))


_INFINITE_YOU = "ByteDance/InfiniteYou"


def _infinite_you(folder: str, kind: str, purpose: str) -> ModelFile:
    path, requires = (
        f"infu_flux_v1.0/{folder}/image_proj_model.bin",
        (f"infusenet_{kind}_bf16.safetensors", IR_SE50_FILE, "antelopev2"),
    )
    return ModelFile(
        "ipadapter", f"infiniteyou_{folder}.bin", _INFINITE_YOU, path, 338, CC_BY_NC, purpose, requires=requires
    )


def _infuse_net(folder: str, kind: str, purpose: str) -> ModelFile:
    name = f"infusenet_{kind}_bf16.safetensors"
    path = f"infu_flux_v1.0/{folder}/{name}"
    return ModelFile("controlnet", name, _INFINITE_YOU, path, 5910, CC_BY_NC, purpose)


def _pack(name: str, megabytes: float, purpose: str, sha256: str = "") -> ModelFile:
    link = f"https://github.com/deepinsight/insightface/releases/download/v0.7/{name}.zip"
    return ModelFile(PACK_FOLDER, name, "", "", megabytes, NON_COMMERCIAL, purpose, link, sha256)


# InfiniteYou's recogniser; the face pack antelopev2 beside it has the detector.
IR_SE50 = ModelFile(
    PACK_FOLDER,
    f"arcface_ir_se50/{IR_SE50_FILE}",
    "",
    "",
    175,
    UNREAD,
    "recogniser of InfiniteYou, by facexlib",
    "https://github.com/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth",
    requires=("antelopev2",),
)

PACKS = {
    pack.name: pack
    for pack in (
        _pack(
            "buffalo_l",
            326,
            "face pack: detector and recogniser for FaceID",
            "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        ),
        _pack(
            "antelopev2",
            407,
            "face pack: detector and recogniser for InstantID, PuLID and WithAnyone",
            "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        ),
        _pack("buffalo_s", 159, "small face pack: the demo model's"),
    )
}

FILES = (
    # base models
    ModelFile(
        "checkpoints",
        "v1-5-pruned-emaonly-fp16.safetensors",
        "Comfy-Org/stable-diffusion-v1-5-archive",
        "v1-5-pruned-emaonly-fp16.safetensors",
        2133,
        OPENRAIL,
        "base model SD1.5",
    ),
    ModelFile(
        "checkpoints",
        "sd_xl_base_1.0.safetensors",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "sd_xl_base_1.0.safetensors",
        6940,
        OPENRAIL_PP,
        "base model SDXL",
    ),
    ModelFile(
        "diffusion_models",
        "flux1-dev.safetensors",
        "Comfy-Org/flux1-dev",
        "flux1-dev.safetensors",
        23803,
        FLUX_DEV,
        "base model FLUX.1-dev",
        requires=("clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors"),
    ),
    _flux_text("clip_l.safetensors", 246, "text encoder CLIP-L of FLUX.1"),
    _flux_text("t5xxl_fp16.safetensors", 9788, "text encoder T5-XXL of FLUX.1"),
    ModelFile(
        "vae",
        "ae.safetensors",
        "Comfy-Org/Lumina_Image_2.0_Repackaged",
        "split_files/vae/ae.safetensors",
        335,
        APACHE,
        "VAE of FLUX.1",
    ),
    # vision towers
    ModelFile(
        "clip_vision",
        VIT_H,
        "h94/IP-Adapter",
        "models/image_encoder/model.safetensors",
        2528,
        APACHE,
        "CLIP vision ViT-H of most IP-Adapter and FaceID Plus files",
    ),
    ModelFile(
        "clip_vision",
        VIT_BIGG,
        "h94/IP-Adapter",
        "sdxl_models/image_encoder/model.safetensors",
        3690,
        APACHE,
        "CLIP vision ViT-bigG of two IP-Adapter files",
    ),
    ModelFile(
        "clip_vision",
        VIT_L,
        "Kwai-Kolors/Kolors-IP-Adapter-Plus",
        "image_encoder/pytorch_model.bin",
        1710,
        UNREAD,
        "CLIP vision ViT-L of Kolors IP-Adapter Plus",
    ),
    ModelFile(
        "clip_vision",
        EVA,
        "QuanSun/EVA-CLIP",
        EVA,
        856,
        MIT,
        "EVA-CLIP, the vision tower of PuLID",
    ),
    ModelFile(
        "clip_vision",
        SIGLIP,
        "google/siglip-base-patch16-256-i18n",
        "model.safetensors",
        1480,
        UNREAD,
        "SigLIP, the vision tower of WithAnyone",
    ),
    ModelFile(
        "clip_vision",
        SIGLIP_SO400M,
        "Comfy-Org/sigclip_vision_384",
        SIGLIP_SO400M,
        857,
        UNREAD,
        "SigLIP so400m, the vision tower of InstantX's IP-Adapters",
    ),
    ModelFile(
        "clip_vision",
        CLIP_L,
        "openai/clip-vit-large-patch14",
        "model.safetensors",
        1710,
        UNREAD,
        "CLIP vision ViT-L of the XLabs FLUX IP-Adapters",
    ),
    ModelFile(
        "clip_vision",
        CURRICULAR_FACE,
        "Junjie96/UniPortrait",
        CURRICULAR_FACE,
        261,
        APACHE,
        "CurricularFace, which UniPortrait reads beside ViT-H",
    ),
    # IP-Adapter
    _ip_adapter("ip-adapter_sd15.safetensors", "models", 44.6, "IP-Adapter for SD1.5"),
    _ip_adapter("ip-adapter_sd15_light_v11.bin", "models", 44.6, "IP-Adapter light for SD1.5"),
    _ip_adapter("ip-adapter_sd15_vit-G.safetensors", "models", 46.2, "IP-Adapter for SD1.5 with ViT-bigG", VIT_BIGG),
    _ip_adapter("ip-adapter-plus_sd15.safetensors", "models", 98.2, "IP-Adapter Plus for SD1.5"),
    _ip_adapter("ip-adapter-plus-face_sd15.safetensors", "models", 98.2, "IP-Adapter Plus-Face for SD1.5"),
    _ip_adapter("ip-adapter-full-face_sd15.safetensors", "models", 43.6, "IP-Adapter Full-Face for SD1.5"),
    _ip_adapter("ip-adapter_sdxl_vit-h.safetensors", "sdxl_models", 698.4, "IP-Adapter for SDXL"),
    _ip_adapter("ip-adapter_sdxl.safetensors", "sdxl_models", 702.6, "IP-Adapter for SDXL with ViT-bigG", VIT_BIGG),
    _ip_adapter("ip-adapter-plus_sdxl_vit-h.safetensors", "sdxl_models", 847.5, "IP-Adapter Plus for SDXL"),
    _ip_adapter("ip-adapter-plus-face_sdxl_vit-h.safetensors", "sdxl_models", 847.5, "IP-Adapter Plus-Face for SDXL"),
    _composition("ip_plus_composition_sd15.safetensors", 98.2, "IP-Adapter Plus Composition for SD1.5"),
    _composition("ip_plus_composition_sdxl.safetensors", 847.5, "IP-Adapter Plus Composition for SDXL"),
    ModelFile(
        "ipadapter",
        "Kolors-IP-Adapter-Plus.bin",
        "Kwai-Kolors/Kolors-IP-Adapter-Plus",
        "ip_adapter_plus_general.bin",
        1010,
        UNREAD,
        "IP-Adapter Plus for Kolors",
        requires=(VIT_L,),
    ),
    # FaceID
    _face_id("ip-adapter-faceid_sd15.bin", 96.7, "FaceID for SD1.5"),
    _face_id("ip-adapter-faceid_sdxl.bin", 1070, "FaceID for SDXL"),
    _face_id("ip-adapter-faceid-plus_sd15.bin", 156.6, "FaceID Plus for SD1.5 (use PlusV2)", VIT_H),
    _face_id("ip-adapter-faceid-plusv2_sd15.bin", 156.6, "FaceID PlusV2 for SD1.5", VIT_H),
    _face_id("ip-adapter-faceid-plusv2_sdxl.bin", 1490, "FaceID PlusV2 for SDXL", VIT_H),
    _face_id("ip-adapter-faceid-portrait-v11_sd15.bin", 64.6, "FaceID Portrait for SD1.5"),
    _face_id("ip-adapter-faceid-portrait_sdxl.bin", 749.8, "FaceID Portrait for SDXL"),
    _face_id("ip-adapter-faceid-portrait_sdxl_unnorm.bin", 1010, "FaceID Portrait-unnorm for SDXL"),
    # UniPortrait, ConsistentID
    ModelFile(
        "ipadapter",
        "uniportrait-faceid_sd15.bin",
        "Junjie96/UniPortrait",
        "uniportrait-faceid_sd15.bin",
        224,
        APACHE,
        "UniPortrait for SD1.5",
        requires=("buffalo_l", VIT_H, CURRICULAR_FACE),
    ),
    _consistent_id("ConsistentID-v1.bin", 669, "ConsistentID for SD1.5"),
    _consistent_id("ConsistentID_SDXL-v1.bin", 2422, "ConsistentID for SDXL"),
    # InstantID, PuLID
    ModelFile(
        "instantid",
        "ip-adapter.bin",
        "InstantX/InstantID",
        "ip-adapter.bin",
        1690,
        APACHE,
        "InstantID's adapter for SDXL",
        requires=("antelopev2", "diffusion_pytorch_model.safetensors"),
    ),
    ModelFile(
        "controlnet",
        "instantid/diffusion_pytorch_model.safetensors",
        "InstantX/InstantID",
        "ControlNetModel/diffusion_pytorch_model.safetensors",
        2500,
        APACHE,
        "InstantID's ControlNet for SDXL",
    ),
    _pulid("ip-adapter_pulid_sdxl_fp16.safetensors", "huchenlei/ipadapter_pulid", 791, "PuLID for SDXL"),
    _pulid("pulid_v1.1.safetensors", "guozinan/PuLID", 984, "PuLID v1.1 for SDXL"),
    _pulid("pulid_flux_v0.9.1.safetensors", "guozinan/PuLID", 1142, "PuLID for FLUX.1"),
    ModelFile(
        "ipadapter",
        "withanyone.safetensors",
        "WithAnyone/WithAnyone",
        "withanyone.safetensors",
        5558,
        UNREAD,
        "WithAnyone for FLUX.1",
        requires=("antelopev2", SIGLIP),
    ),
    # IP-Adapters for FLUX.1
    _xlabs("flux-ip-adapter", 982, "XLabs FLUX IP-Adapter"),
    _xlabs("flux-ip-adapter-v2", 1060, "XLabs FLUX IP-Adapter v2"),
    ModelFile(
        "ipadapter",
        "instantx-flux-ip-adapter.bin",
        "InstantX/FLUX.1-dev-IP-Adapter",
        "ip-adapter.bin",
        5290,
        UNREAD,
        "InstantX IP-Adapter for FLUX.1",
        requires=(SIGLIP_SO400M,),
    ),
    ModelFile(
        "ipadapter",
        "instantx-sd35-large-ip-adapter.bin",
        "InstantX/SD3.5-Large-IP-Adapter",
        "ip-adapter.bin",
        1596,
        UNREAD,
        "InstantX IP-Adapter for SD3.5 Large",
        requires=(SIGLIP_SO400M,),
    ),
    # InfiniteYou
    _infinite_you("aes_stage2", "aes", "InfiniteYou for FLUX.1, better composition"),
    _infinite_you("sim_stage1", "sim", "InfiniteYou for FLUX.1, higher identity similarity"),
    _infuse_net("aes_stage2", "aes", "InfuseNet of InfiniteYou, better composition"),
    _infuse_net("sim_stage1", "sim", "InfuseNet of InfiniteYou, higher identity similarity"),
    IR_SE50,
    # AuraFace
    _aura_face("glintr100.onnx", 261, "recogniser of the face pack auraface, for your own adapters"),
    _aura_face("scrfd_10g_bnkps.onnx", 16.9, "detector of the face pack auraface"),
    # pose ControlNets
    ModelFile(
        "controlnet",
        "control_v11p_sd15_openpose_fp16.safetensors",
        "comfyanonymous/ControlNet-v1-1_fp16_safetensors",
        "control_v11p_sd15_openpose_fp16.safetensors",
        722.6,
        UNREAD,
        "pose ControlNet for SD1.5",
    ),
    ModelFile(
        "controlnet",
        "controlnet-openpose-sdxl-1.0.safetensors",
        "xinsir/controlnet-openpose-sdxl-1.0",
        "diffusion_pytorch_model.safetensors",
        2500,
        APACHE,
        "pose ControlNet for SDXL",
    ),
)

ALL = (*FILES, *PACKS.values())


def by_choice(value: str) -> ModelFile | None:
    """The file selected by a loader's widget value, or None."""
    return next((file for file in FILES if file.choice == value.replace("\\", "/")), None)


def by_name(name: str) -> ModelFile | None:
    """The file with that name in any folder, or None."""
    return next((file for file in ALL if file.name.rpartition("/")[2] == name), None)


def of_pack(name: str) -> tuple[ModelFile, ...]:
    """The files of a face pack, with the pack that has its detector; none for an unknown name."""
    return tuple(dict.fromkeys(part for file in ALL if _pack_of(file) == name for part in with_required(file)))


def pack_names() -> list[str]:
    """All face packs of the table."""
    return sorted({pack for file in ALL if (pack := _pack_of(file))})


def _pack_of(file: ModelFile) -> str | None:
    return file.name.partition("/")[0] if file.folder == PACK_FOLDER else None


def with_required(file: ModelFile) -> tuple[ModelFile, ...]:
    """The file and all files that it requires."""
    return (file, *(found for name in file.requires if (found := by_name(name)) is not None))
