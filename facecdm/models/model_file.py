"""An entry of the table of model files: where a file comes from, and where it is saved."""

from dataclasses import dataclass

HUB = "https://huggingface.co"
# Types that ComfyUI's frontend can download. Other files get a link in the workflow's note.
DOWNLOADABLE = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")
# Load FaceCDM Adapter lists files of these folders with the folder name as a prefix.
PREFIXED = ("ipadapter", "instantid", "pulid")
PACK_FOLDER = "insightface/models"


@dataclass(frozen=True)
class ModelFile:
    """One file to download.

    folder      folder below ComfyUI's `models`
    name        file name in that folder, including any subfolder
    repository  repository on the Hugging Face hub, or "" if `link` suffices
    path        path in that repository
    megabytes   size in 10^6 bytes, as its source states it, or an estimate (catalogue.py lists these)
    licence     licence of the weights
    purpose     purpose, as a noun phrase
    link        URL of a file that is not on the hub
    sha256      the file's hash, if its publisher states it outside the hub (the hub states its own)
    requires    names of other files in the table that it needs: its face pack, its vision tower
    """

    folder: str
    name: str
    repository: str
    path: str
    megabytes: float
    licence: str
    purpose: str
    link: str = ""
    sha256: str = ""
    requires: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return self.link or f"{HUB}/{self.repository}/resolve/main/{self.path}"

    @property
    def page(self) -> str:
        """URL of the page about the file."""
        return f"{HUB}/{self.repository}" if self.repository else self.link.rpartition("/download/")[0] or self.link

    @property
    def choice(self) -> str:
        """The loader's widget value that selects the file."""
        return f"{self.folder}/{self.name}" if self.folder in PREFIXED else self.name

    @property
    def is_archive(self) -> bool:
        """Whether it is an archive, to be unpacked into a folder of the same name."""
        return self.url.endswith(".zip")

    @property
    def in_browser(self) -> bool:
        """Whether ComfyUI's frontend can download it: its type, into one of ComfyUI's model folders."""
        return self.folder != PACK_FOLDER and self.url.lower().endswith(DOWNLOADABLE)

    @property
    def size(self) -> str:
        return f"{self.megabytes / 1000:.2f} GB" if self.megabytes >= 1000 else f"{self.megabytes:.0f} MB"

    @property
    def note(self) -> str:
        """A line of Markdown for notes and docs: link, size, licence, folder, and file name to save as."""
        saved = self.name.rpartition("/")[2]
        renamed = "" if self.is_archive or self.url.endswith(f"/{saved}") else f", saved as `{saved}`"
        folder = "/".join(["models", self.folder, *self.name.split("/")[:-1]])
        return f"[{saved}]({self.url}) ({self.size}, {self.licence}) into `{folder}`{renamed}"
