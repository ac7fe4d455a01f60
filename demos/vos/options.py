"""The options of ``python -m demos.vos``."""

from __future__ import annotations

import argparse
from pathlib import Path

from demos.devices import add_device

PROGRAM = "python -m demos.vos"
SHIPPED = Path(__file__).parent / "features.safetensors"
"""Features that come with the demo, see docs/vos.md."""
SCORES_NAME, SHEET_NAME, VIDEO_NAME = "scores.csv", "contact-sheet.png", "overlay.mp4"
EVERY_OBJECT_NAME = "scores-every-object.csv"
LOSSES = ("pairs", "layer")
CHECKPOINT_NAMES = {name: f"{name}.safetensors" for name in (*LOSSES, "refined")}
LAYOUTS = ("davis2016", "davis2017", "youtube-vos", "segtrack")
MATCHINGS = ("greedy", "hungarian", "dmm", "quadratic")
TUNING_CLIPS = 4

_DESCRIPTION = """\
Video object segmentation by matching mask proposals: DMM-Net's tracker.

Without a command this is the demo: it trains features on synthetic video from nothing, pair
by pair and through the matching layer, tracks the objects of unseen clips, and compares.
"""

_EPILOG = f"""\
examples:
  {PROGRAM}
  {PROGRAM} train --loss layer --output runs/vos-layer
  {PROGRAM} train --data DAVIS --layout davis2016 --split train --paste 30 --output runs/vos-davis
  {PROGRAM} eval DAVIS --layout davis2017 --proposals maskrcnn --cache runs/proposals --features runs/vos-davis
  {PROGRAM} eval DAVIS --layout davis2016 --proposals DAVIS/Proposals/480p --features pairs=A layer=B
  {PROGRAM} track VIDEO.mp4 --masks FIRST.png --output runs/track
  {PROGRAM} track FRAMES --box 120,80,60,90 --box 300,40,50,50

`{PROGRAM} COMMAND --help` lists the options of a command.
"""


# --- options ------------------------------------------------------------------------------------------------


def _add_training(parser: argparse.ArgumentParser) -> None:
    """Options that make a TrainConfig; what is not given stays None."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, help="a checkpoint after each (default: 4)")
    group.add_argument("--steps", type=int, help="an epoch (default: 40)")
    group.add_argument("--batch-size", type=int, help="samples a step (default: 8)")
    group.add_argument("--lr", type=float, help="highest learning rate, of a cosine schedule (default: 0.003)")
    group.add_argument("--seed", type=int, help="seeds all that is random (default: 0)")


def _add_layout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", choices=LAYOUTS, default="davis2017", help="of the data (default: %(default)s)")
    parser.add_argument("--split", help="DAVIS: ImageSets/YEAR/SPLIT.txt (default: all clips there are)")
    parser.add_argument(
        "--resolution",
        default="480p",
        help="DAVIS: the folder below JPEGImages; none for no folder (default: %(default)s)",
    )
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="of these names alone (default: all)")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo", help="the demo (the default)", description="Train on synthetic video and compare."
    )
    demo.add_argument(
        "--output", type=Path, default=Path("runs/vos"), metavar="DIR", help="what comes out (default: %(default)s)"
    )
    demo.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    demo.add_argument("--train-clips", type=int, default=32, metavar="N", help="to train on (default: %(default)s)")
    demo.add_argument("--test-clips", type=int, default=10, metavar="N", help="to test on (default: %(default)s)")
    demo.add_argument(
        "--tuning-clips",
        type=int,
        default=TUNING_CLIPS,
        metavar="N",
        help="to choose each method's unmatched cost on (default: %(default)s)",
    )
    demo.add_argument("--objects", type=int, default=3, metavar="N", help="in a clip (default: %(default)s)")
    add_device(demo)
    _add_training(demo)

    train = commands.add_parser("train", help="train features", description="Train features, or resume a training.")
    train.add_argument("--data", type=Path, metavar="DIR", help="clips to train on (default: synthetic ones)")
    _add_layout(train)
    train.add_argument(
        "--proposals", default="noisy", metavar="DIR|noisy", help="(default: noisy, made from the truth)"
    )
    train.add_argument(
        "--paste", type=int, default=0, metavar="N", help="also N clips with objects of two others pasted onto them"
    )
    train.add_argument("--train-clips", type=int, default=32, metavar="N", help="synthetic ones (default: %(default)s)")
    train.add_argument(
        "--tuning-clips",
        type=int,
        metavar="N",
        help="clips that are not trained on, to choose each matching's unmatched cost on; of --data the last, those that have "
        "labels in all frames, pasted onto each other with --paste (default: 4, of --data a fifth at most)",
    )
    train.add_argument("--loss", choices=LOSSES, help="pair by pair or through the layer (default: layer)")
    train.add_argument(
        "--refine",
        action="store_true",
        default=None,
        help="also a refinement after the matching, end to end; --loss layer",
    )
    train.add_argument(
        "--amp", action="store_true", default=None, help="backbone and refinement in bfloat16, by autocast"
    )
    train.add_argument("--matching", choices=("dmm", "quadratic"), help="the layer (default: dmm)")
    train.add_argument(
        "--backbone", help="small, or a ResNet of torchvision's: resnet18 ... resnet152 (default: small)"
    )
    train.add_argument(
        "--output", type=Path, default=Path("runs/vos-train"), metavar="DIR", help="(default: %(default)s)"
    )
    train.add_argument("--export", type=Path, metavar="FILE", help="also write the features alone, for use")
    train.add_argument("--resume", action="store_true", help="go on after the last whole epoch")
    train.add_argument("--overwrite", action="store_true", help="replace an earlier run there")
    add_device(train)
    _add_training(train)

    evaluate = commands.add_parser(
        "eval",
        help="track the objects of real clips and compare",
        description="Track the objects of clips, given where they first appear, and print J / F for each matching and each "
        "set of features, beside the best single proposal a frame for each object.",
    )
    evaluate.add_argument(
        "--paste",
        type=int,
        metavar="N",
        help="instead of the clips, N semi-synthetic ones with the objects of two of them pasted onto a third",
    )
    evaluate.add_argument(
        "--labels-only",
        action="store_true",
        help="only write the labels to --output: for data whose truth is not public",
    )
    evaluate.add_argument(
        "--seen",
        type=Path,
        metavar="META.JSON",
        help="YouTube-VOS: of the training set, whose categories count as seen; G is printed then",
    )
    evaluate.add_argument("data", type=Path, help="the root of the data")
    _add_layout(evaluate)
    evaluate.add_argument(
        "--proposals",
        required=True,
        metavar="DIR|noisy|embedded|maskrcnn",
        help="a folder of palette PNGs or COCO JSON; made from the truth; regions of a segmentation and the last masks, which "
        "need no download; or found by torchvision's Mask R-CNN",
    )
    evaluate.add_argument(
        "--weights", default="COCO", help="Mask R-CNN: a file, or COCO to download (default: %(default)s)"
    )
    evaluate.add_argument("--detector", default="resnet50", help="Mask R-CNN: its backbone (default: %(default)s)")
    evaluate.add_argument("--top", type=int, default=50, help="proposals a frame, at most (default: %(default)s)")
    evaluate.add_argument("--cache", type=Path, metavar="DIR", help="keep the proposals there")
    evaluate.add_argument(
        "--features",
        nargs="+",
        metavar="[NAME=]PATH",
        default=[str(SHIPPED)],
        help="checkpoints, or the directories of their runs (default: the features that come with the demo)",
    )
    evaluate.add_argument(
        "--matchings", nargs="+", choices=MATCHINGS, default=["greedy", "hungarian", "dmm"], metavar="NAME",
        help=f"of {', '.join(MATCHINGS)} (default: greedy hungarian dmm)",
    )  # fmt: skip
    evaluate.add_argument(
        "--unmatched-cost",
        type=float,
        metavar="C",
        help="of an object that is hidden, in [-1, 1] (default: what the training has chosen for each matching)",
    )
    evaluate.add_argument(
        "--finetune",
        type=int,
        default=0,
        metavar="STEPS",
        help="train a copy of the network on each clip's first frame before tracking (default: no)",
    )
    evaluate.add_argument("--finetune-lr", type=float, default=1e-4, metavar="LR", help="(default: %(default)s)")
    evaluate.add_argument("--output", type=Path, metavar="DIR", help="also write the labels as palette PNGs, and a CSV")
    evaluate.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    add_device(evaluate)

    track = commands.add_parser(
        "track",
        help="follow objects through your own video",
        description="Follow the objects of a video's first frame. Writes a palette PNG a frame, a CSV of each object's place, "
        "size and matching cost, and a video with the objects tinted.",
    )
    track.add_argument("video", type=Path, metavar="VIDEO|FOLDER", help="an mp4 or the like, or a folder of pictures")
    first = track.add_mutually_exclusive_group(required=True)
    first.add_argument(
        "--masks",
        type=Path,
        metavar="FIRST.PNG",
        help="the objects of the first frame: labels, black and white, or colours",
    )
    first.add_argument(
        "--box",
        type=_box,
        action="append",
        metavar="X,Y,W,H",
        help="an object of the first frame, in pixels; repeat for more",
    )
    track.add_argument(
        "--truth",
        type=Path,
        metavar="DIR",
        help="masks of some frames, palette PNGs named as these: print each object's mean J",
    )
    track.add_argument(
        "--proposals", choices=("embedded", "maskrcnn"), default="embedded",
        help="embedded: regions of a segmentation, and the last masks by optical flow; nothing is downloaded. maskrcnn: "
        "torchvision's Mask R-CNN, whose weights it downloads, and the last masks (default: %(default)s)",
    )  # fmt: skip
    track.add_argument(
        "--weights", default="COCO", help="Mask R-CNN: a file, or COCO to download (default: %(default)s)"
    )
    track.add_argument("--features", type=Path, default=SHIPPED, metavar="PATH", help="(default: those of the demo)")
    track.add_argument("--matching", choices=MATCHINGS, default="dmm", help="(default: %(default)s)")
    track.add_argument("--unmatched-cost", type=float, metavar="C", help="of an object that is hidden, in [-1, 1]")
    track.add_argument(
        "--output", type=Path, metavar="DIR", help="what comes out (default: runs/track/ and the video's name)"
    )
    track.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    track.add_argument("--overwrite", action="store_true", help="replace earlier results there")
    add_device(track)
    return parser


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, w, h = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text}, wanted four whole numbers x,y,width,height") from None
    return x, y, w, h
