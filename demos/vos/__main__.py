"""Video object segmentation by matching mask proposals: DMM-Net's tracker.

Without a command this is the demo, which takes 3 minutes: it trains features on synthetic video from nothing, pair by pair
and through the matching layer, tracks the objects of unseen clips, and compares. Read it in demos/vos/demo.py.

  python -m demos.vos
  python -m demos.vos train --loss layer --output runs/vos-layer
  python -m demos.vos train --data DAVIS --layout davis2016 --split train --paste 30 --output runs/vos-davis
  python -m demos.vos train-masks DAVIS --layout davis2016 --split train --output runs/vos-masks
  python -m demos.vos eval DAVIS --layout davis2017 --proposals maskrcnn --cache runs/proposals --features runs/vos-davis
  python -m demos.vos eval DAVIS --layout davis2016 --proposals DAVIS/Proposals/480p --features pairs=A layer=B
  python -m demos.vos track VIDEO.mp4 --masks FIRST.png --output runs/track
  python -m demos.vos track FRAMES --box 120,80,60,90 --box 300,40,50,50
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

from tyro.conf import subcommand

from demos.command import run
from demos.vos.options import Demo, Evaluate, Track, Train, TrainMasks

PROGRAM = "python -m demos.vos"
Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Train, subcommand("train")]
    | Annotated[TrainMasks, subcommand("train-masks")]
    | Annotated[Evaluate, subcommand("eval")]
    | Annotated[Track, subcommand("track")]
)
_NEEDED = (
    "PIL",
    "cv2",
    "imageio",
    "imageio_ffmpeg",
    "matplotlib",
    "safetensors",
    "skimage",
    "tabulate",
    "torchvision",
    "tqdm",
)


def act(options: Demo | Train | TrainMasks | Evaluate | Track) -> int:
    """Do what the command line says. What is slow to import is imported here, so that --help answers at once."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{missing[0]} is not installed; wanted: pip install '.[demos]' in the project's folder")
    try:
        if isinstance(options, Demo):
            from demos.vos.demo import demo

            demo(options)
        elif isinstance(options, Train):
            from demos.vos.commands import train_features

            train_features(options)
        elif isinstance(options, TrainMasks):
            from demos.vos.train_masks import train_masks

            train_masks(options)
        elif isinstance(options, Evaluate):
            from demos.vos.commands import evaluate_clips

            evaluate_clips(options)
        else:
            from demos.vos.track import track_video

            track_video(options)
    except RuntimeError as error:  # a loss that is no longer finite, say
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return run(PROGRAM, __doc__, Command, act, argv, command="demo")


if __name__ == "__main__":
    sys.exit(main())
