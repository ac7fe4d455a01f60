"""The options of ``python -m demos.vos``: a dataclass for each command, a field for each option."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from demos.command import check_counts, check_rate
from demos.options import Device, File, Folder, Whole, optional
from demos.vos.config import Detector, Kind, MaskTraining, ModelConfig, Schedule, TrainConfig, check_cost

TUNING_CLIPS = 4

Cost = Annotated[float | None, optional("COST")]


@dataclass(frozen=True)
class Demo:
    """Train features on synthetic video, track the objects of unseen clips, and compare; the word demo may be left out."""

    output: Path = Path("runs/vos")
    """Folder for the checkpoints, the scores, a contact sheet and a video."""
    overwrite: bool = False
    """Replace earlier results there."""
    train_clips: int = 32
    """Clips to train on."""
    test_clips: int = 10
    """Clips to test on."""
    tuning_clips: int = TUNING_CLIPS
    """Clips to choose each method's unmatched cost on."""
    objects: int = 3
    """Objects of a clip."""
    schedule: OmitArgPrefixes[Schedule] = field(default_factory=Schedule)
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_counts(self, "train_clips", "test_clips", "tuning_clips", "objects")


@dataclass(frozen=True)
class Layout:
    """How the data lie in their folder."""

    layout: Literal["davis2016", "davis2017", "youtube-vos", "segtrack"] = "davis2017"
    split: Annotated[str | None, optional("SPLIT")] = None
    """DAVIS: the clips of ImageSets/YEAR/SPLIT.txt; all that there are if it is not given."""
    resolution: str = "480p"
    """DAVIS: the folder below JPEGImages; none if there is no such folder."""
    clips: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """The clips of these names alone."""

    def __post_init__(self) -> None:
        if self.split is not None and not self.layout.startswith("davis"):
            raise ValueError(f"--split: got it with the layout {self.layout}, wanted davis2016 or davis2017")


@dataclass(frozen=True)
class MaskRCNN:
    """Proposals by torchvision's Mask R-CNN, with --proposals maskrcnn."""

    weights: str = "COCO"
    """A file, or COCO to download them."""
    detector: Detector = "resnet50"
    """Its backbone."""


@dataclass(frozen=True)
class Train:
    """Train features, or resume a training."""

    data: Folder = None
    """Folder of clips to train on; synthetic ones if it is not given."""
    layout: OmitArgPrefixes[Layout] = field(default_factory=Layout)
    proposals: Annotated[str, arg(metavar="DIR|noisy|embedded")] = "noisy"
    """A folder of palette PNGs or COCO JSON; noisy: made from the truth; embedded: regions of a segmentation."""
    paste: int = 0
    """Train on so many more clips, with objects of two others pasted onto them."""
    train_clips: int = 32
    """Clips to train on, without --data."""
    tuning_clips: Whole = None
    """Clips to choose each matching's unmatched cost on: 4 if it is not given, of --data the last fifth, 4 at most."""
    output: Path = Path("runs/vos-train")
    """Folder for the checkpoint."""
    export: File = None
    """Also write the features alone to this file, for use."""
    resume: bool = False
    """Go on after the last whole epoch."""
    overwrite: bool = False
    """Replace an earlier run there."""
    training: OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)
    model: OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_counts(self, "train_clips")
        check_counts(self, "paste", "tuning_clips", least=0)
        check_resume(self)


@dataclass(frozen=True)
class TrainMasks:
    """Train the network that draws the embedded proposals' masks, or resume a training."""

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of clips with true masks."""
    layout: OmitArgPrefixes[Layout] = field(default_factory=Layout)
    output: Path = Path("runs/vos-masks")
    """Folder for the checkpoint."""
    export: File = None
    """Also write the network alone, in half precision, to this file, for use."""
    resume: bool = False
    """Go on after the last whole epoch; the examples are made anew, the same."""
    overwrite: bool = False
    """Replace an earlier run there."""
    training: OmitArgPrefixes[MaskTraining] = field(default_factory=MaskTraining)

    def __post_init__(self) -> None:
        check_resume(self)


@dataclass(frozen=True)
class Evaluate:
    """Track the objects of clips, given where they first appear; print J / F for each matching and each set of features."""

    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Folder of the data."""
    proposals: Annotated[
        str,
        arg(
            metavar="DIR|noisy|embedded|maskrcnn",
            help="A folder of palette PNGs or COCO JSON; noisy: made from the truth; embedded: regions of a segmentation and "
            "the last masks, which need no download; maskrcnn: found by torchvision's Mask R-CNN.",
        ),
    ]
    layout: OmitArgPrefixes[Layout] = field(default_factory=Layout)
    paste: Whole = None
    """Instead of the clips, so many semi-synthetic ones with the objects of two of them pasted onto a third."""
    top: int = 50
    """Proposals a frame, at most."""
    mask_network: File = None
    """Of train-masks, to draw embedded proposals; the one that comes with the demo if it is not given."""
    cache: Folder = None
    """Keep the proposals in this folder."""
    detector: OmitArgPrefixes[MaskRCNN] = field(default_factory=MaskRCNN)
    features: Annotated[tuple[str, ...], arg(metavar="[NAME=]PATH ...", help_behavior_hint="")] = ()
    """Checkpoints, or the folders of their runs; the features that come with the demo if none is given."""
    matchings: tuple[Kind, ...] = ("greedy", "hungarian", "dmm")
    unmatched_cost: Cost = None
    """Of an object that is hidden, -1 to 1; what the training has chosen for each matching if it is not given."""
    finetune: int = 0
    """Steps to train a copy of the network on each clip's first frame before tracking."""
    finetune_lr: float = 1e-4
    """The learning rate of these steps."""
    labels_only: bool = False
    """Only write the labels to --output: for data whose truth is not public."""
    seen: Annotated[Path | None, optional("META.JSON")] = None
    """YouTube-VOS: of the training set, whose categories count as seen; G is printed then."""
    output: Folder = None
    """Also write the labels as palette PNGs, and a CSV, to this folder."""
    overwrite: bool = False
    """Replace earlier results there."""
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_counts(self, "top")
        check_counts(self, "paste")
        check_counts(self, "finetune", least=0)
        check_rate("--finetune-lr", self.finetune_lr)
        check_cost("--unmatched-cost", self.unmatched_cost)
        if not self.matchings or len(set(self.matchings)) < len(self.matchings):
            raise ValueError(
                f"--matchings: got {' '.join(self.matchings) or 'none'}, wanted different ones, one at least"
            )
        if self.mask_network is not None and self.proposals != "embedded":
            raise ValueError(f"--mask-network: got --proposals {self.proposals}, wanted embedded, which it draws")
        if self.labels_only and self.output is None:
            raise ValueError("--labels-only: got no --output, wanted a folder to write them to")
        if self.seen is not None and self.layout.layout != "youtube-vos":
            raise ValueError(
                f"--seen: got the layout {self.layout.layout}, wanted youtube-vos, whose measure knows seen categories"
            )


def _box(words: list[str]) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = (int(part) for part in words[0].split(","))
    except ValueError:
        raise ValueError(f"got {words[0]}, wanted four whole numbers x,y,width,height") from None
    return x, y, width, height


Box = Annotated[
    tuple[int, int, int, int],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="X,Y,WIDTH,HEIGHT",
        instance_from_str=_box,
        is_instance=lambda box: isinstance(box, tuple),
        str_from_instance=lambda box: [",".join(map(str, box))],
    ),
]


@dataclass(frozen=True)
class Track:
    """Follow the objects of a video's first frame, given by --masks or by --box. Writes a palette PNG a frame, a CSV of each
    object's place, size and matching cost, and a video with the objects tinted."""

    video: Annotated[Positional[Path], arg(metavar="VIDEO|FOLDER")]
    """An mp4 or the like, or a folder of pictures."""
    masks: Annotated[Path | None, optional("FIRST.PNG")] = None
    """The objects of the first frame: labels, black and white, or colours."""
    box: UseAppendAction[tuple[Box, ...]] = ()
    """An object of the first frame, in pixels; repeat it for more."""
    truth: Folder = None
    """Folder of the masks of some frames, palette PNGs named as these: print each object's mean J, and write scores.csv."""
    proposals: Annotated[
        Literal["embedded", "maskrcnn"],
        arg(
            help="embedded: regions of a segmentation, and the last masks carried on; nothing is downloaded. maskrcnn: "
            "torchvision's Mask R-CNN, whose weights it downloads, and the last masks carried on."
        ),
    ] = "embedded"
    mask_network: File = None
    """Of train-masks, to draw the last masks; the one that comes with the demo if it is not given."""
    detector: OmitArgPrefixes[MaskRCNN] = field(default_factory=MaskRCNN)
    features: Annotated[Path | None, optional("PATH")] = None
    """A checkpoint, or the folder of its run; the features that come with the demo if it is not given."""
    matching: Kind = "dmm"
    unmatched_cost: Cost = None
    """Of an object that is hidden, -1 to 1; what the training has chosen if it is not given."""
    output: Folder = None
    """Folder for what comes out; runs/track/ and the video's name if it is not given."""
    resume: bool = False
    """Go on with a run that was stopped."""
    overwrite: bool = False
    """Replace earlier results there."""
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_cost("--unmatched-cost", self.unmatched_cost)
        check_resume(self)
        if (self.masks is None) == (not self.box):
            raise ValueError(f"--masks, --box: got {'neither' if self.masks is None else 'both'}, wanted one of them")


def check_resume(options: Train | TrainMasks | Track) -> None:
    """Raise ``ValueError`` if a run is to go on and to be replaced."""
    if options.resume and options.overwrite:
        raise ValueError("--resume, --overwrite: got both, wanted one")
