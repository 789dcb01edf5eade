"""What a person can choose when a data set is prepared."""

from dataclasses import dataclass

from ...errors import FaceCDMError

FRAMINGS = ("whole", "portrait")
SEVERAL = ("largest", "drop")
NO_CAPTION = ("empty", "drop")
POSES = ("none", "five points", "openpose")
IDENTITIES = ("auto", "cluster", "one person")


@dataclass(frozen=True)
class Settings:
    """How pictures become rows.

    resolution   side in pixels of the square whose area every bucket has at most (512 for SD1.5, 1024 for SDXL)
    step         sides of buckets are multiples of it
    aspect       the longer side of a bucket over its shorter one, at most; 1: one square bucket
    framing      "whole" picture, or the "portrait" around the face
    several      more than one face: take the "largest", or "drop" the picture
    min_score    how sure the detector must be
    min_face     width of the face over the shorter side of the picture that is trained on, at least
    min_picture  shorter side of the picture over that of its bucket, at least: smaller ones would be blown up
    no_caption   no caption: the "empty" one, or "drop" the picture
    identities   "auto": as the source says (sub-folders, meta.jsonl), else by clustering; "cluster"; "one person"
    same_person  mean cosine from which clustered faces are one person
    pose         the picture for the pose ControlNet, drawn when a batch is loaded: "none", the "five points" that
                 InstantID's expects, or eyes, nose and, with landmarks, the face in "openpose"'s way
    augmented    variations of a photo that stand in as references where a person has no other photo
    detection_size  pictures are brought to this size before the detector sees them
    """

    resolution: int = 512
    step: int = 64
    aspect: float = 2.0
    framing: str = "whole"
    several: str = "largest"
    min_score: float = 0.5
    min_face: float = 0.08
    min_picture: float = 0.5
    no_caption: str = "empty"
    identities: str = "auto"
    same_person: float = 0.4
    pose: str = "none"
    augmented: int = 4
    detection_size: int = 640

    def __post_init__(self) -> None:
        for name, known in (
            ("framing", FRAMINGS),
            ("several", SEVERAL),
            ("no_caption", NO_CAPTION),
            ("identities", IDENTITIES),
            ("pose", POSES),
        ):
            if getattr(self, name) not in known:
                raise FaceCDMError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
        if self.step < 8 or self.step % 8 or not self.step <= self.resolution <= 8192 or self.aspect < 1:
            raise FaceCDMError(
                f"resolution {self.resolution}, step {self.step}, aspect {self.aspect}: step must be a "
                "multiple of 8, resolution between step and 8192, aspect 1 or more"
            )
        if not 0 <= self.augmented <= 64:
            raise FaceCDMError(f"augmented is {self.augmented}; choose 0 … 64")
