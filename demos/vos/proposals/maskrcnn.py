"""Proposals found by torchvision's Mask R-CNN."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from demos.checkpoints import checkpoint_errors, load_weights, read_safetensors
from demos.vos.config import DETECTORS
from demos.vos.data import Clip
from demos.vos.images import Frame
from demos.vos.proposals import Proposals, ProposalSource, checked_top


class MaskRCNNProposals(ProposalSource):
    """Proposals by torchvision's Mask R-CNN.

    Args:
        weights: a file of a state dict (``.pt``, ``.pth`` or safetensors) of the network with that backbone;
            ``"COCO"``: torchvision's own, downloaded by it (resnet50 alone); None: random, of use in tests alone.
        backbone: of `DETECTORS`, with a feature pyramid.
        top: at most so many, those of highest score.
        min_score: leave out what scores less.
        min_size: frames are resized to this many pixels on the shorter side.
        device: of the network.
        classes: of the network, background included.

    Raises:
        ValueError: another backbone; weights that are not there, or do not fit.
    """

    def __init__(
        self,
        weights: str | Path | None = "COCO",
        *,
        backbone: str = "resnet50",
        top: int = 50,
        min_score: float = 0.05,
        min_size: int = 800,
        device: torch.device | str = "cpu",
        classes: int = 91,
    ) -> None:
        from torchvision.models.detection import (
            MaskRCNN,
            MaskRCNN_ResNet50_FPN_Weights,
            maskrcnn_resnet50_fpn,
        )
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        if backbone not in DETECTORS:
            raise ValueError(f"--detector: got {backbone}, wanted one of {', '.join(DETECTORS)}")
        options = {"box_detections_per_img": checked_top(top), "box_score_thresh": min_score, "min_size": min_size}
        if weights == "COCO":
            if backbone != "resnet50":
                raise ValueError(
                    f"--weights: torchvision has COCO weights for resnet50 alone; got {backbone}, wanted a file"
                )
            try:
                self.network = maskrcnn_resnet50_fpn(weights=MaskRCNN_ResNet50_FPN_Weights.COCO_V1, **options)
            except (OSError, RuntimeError) as error:
                raise ValueError(f"--weights: COCO cannot be downloaded ({error}); wanted a file") from None
            mark = "COCO_V1"
        else:
            body = resnet_fpn_backbone(backbone_name=backbone, weights=None)
            self.network = MaskRCNN(body, classes, **options)
            mark = "none" if weights is None else self._load(Path(weights))
        self.network.eval().to(device)
        self.device = torch.device(device)
        self._identity = f"maskrcnn {backbone} {mark} top {top} min {min_score} size {min_size}"

    def _load(self, path: Path) -> str:
        """Read the weights; the hash of the file."""
        if not path.is_file():
            raise ValueError(f"--weights: no file {path}")
        with checkpoint_errors("--weights", path, "one of this network"):
            if path.suffix == ".safetensors":
                state = read_safetensors(path, argument="--weights")[1]
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
            load_weights(self.network, state)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def identity(self) -> str:
        return self._identity

    def propose(self, clip: Clip, t: int) -> Proposals:
        return self.look(clip.frame(t))

    @torch.no_grad()
    def look(self, frame: Frame) -> Proposals:
        """The proposals of a picture."""
        image = torch.from_numpy(frame.copy()).permute(2, 0, 1).float().div(255)
        found = self.network([image.to(self.device)])[0]
        masks = (found["masks"][:, 0] > 0.5).cpu().numpy()
        return Proposals(masks, found["scores"].cpu().numpy())
