"""Fine-tuning on a clip's first frame before it is tracked, as an option; the masks given there are all that is used."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from demos.vos.config import TrainConfig
from demos.vos.data import Clip
from demos.vos.images import Frame, Labels
from demos.vos.losses import Losses
from demos.vos.model import Features, Matching, Method
from demos.vos.proposals.noisy import NoisyProposals
from demos.vos.samples import Sampler
from demos.vos.train import descend

_COPIES = 16


class StillClip(Clip):
    """The first frame of a clip that has given masks, and copies of it: turned, scaled, moved, brighter or darker.

    Args:
        clip: of whose frames only that one, and its labels, are looked at.
        seed: of the copies.
    """

    def __init__(self, clip: Clip, *, seed: int = 0) -> None:
        first = min(clip.given)
        labels = clip.labels(first)
        assert labels is not None
        self.name, self.seed = f"{clip.name}, still", seed
        self._frame, self._labels = clip.frame(first), labels

    def __len__(self) -> int:
        return _COPIES

    def frame(self, t: int) -> Frame:
        moved = self._moved(torch.from_numpy(self._frame.copy()).permute(2, 0, 1), t, InterpolationMode.BILINEAR)
        if t:
            moved = transforms.adjust_brightness(moved, float(self._rng(t).uniform(0.8, 1.2)))
        frame: Frame = moved.permute(1, 2, 0).contiguous().numpy()
        return frame

    def labels(self, t: int) -> Labels:
        labels: Labels = self._moved(torch.from_numpy(self._labels.copy())[None], t, InterpolationMode.NEAREST)[
            0
        ].numpy()
        return labels

    def _rng(self, t: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, t))

    def _moved(self, picture: torch.Tensor, t: int, mode: InterpolationMode) -> torch.Tensor:
        """Copy 0 is the frame itself."""
        if t == 0:
            return picture
        rng = self._rng(t)
        rng.uniform()  # the brightness
        angle, shear = rng.uniform(-15, 15), rng.uniform(-5, 5)
        y, x = (int(rng.integers(-length // 10, length // 10 + 1)) for length in picture.shape[-2:])
        return transforms.affine(
            picture, angle, [x, y], float(rng.uniform(0.85, 1.15)), [shear, 0.0], interpolation=mode
        )


def finetune(features: Features, clip: Clip, *, steps: int, lr: float = 1e-4, seed: int = 0) -> Features:
    """A copy of the features, and of their refinement, trained on the first frame of a clip.

    The loss is that through the matching (see `demos.vos.train`), on copies of the frame, with proposals made from the given
    masks with noise. The same seed gives the same result.

    Args:
        features: a trained network; it is left as it is.
        clip: to be tracked; its later frames are not looked at.
        steps: of Adam, each on four samples.
        lr: the learning rate.
        seed: of the copies, the proposals and the samples.

    Raises:
        ValueError: steps or lr out of range.
        RuntimeError: the loss is no longer finite; a lower lr may help.
    """
    config = TrainConfig(
        loss="layer", epochs=1, steps=steps, batch_size=4, lr=lr, longest=_COPIES, gap=_COPIES, seed=seed
    )
    own = copy.deepcopy(features)
    sampler = Sampler([StillClip(clip, seed=seed)], NoisyProposals(seed=seed), config)
    losses = Losses(own, config).to(own.mean.device).train()
    adam = torch.optim.Adam(own.parameters(), lr=lr)
    for step in range(steps):
        loss = losses(sampler.batch(step).to(own.mean.device))
        if not loss.isfinite():
            raise RuntimeError(
                f"{clip.name}: the loss became {loss.item()} in step {step} of fine-tuning; a lower lr may help"
            )
        descend(adam, loss)
    return own.eval()


def finetuned(
    methods: Mapping[str, Method], clip: Clip, *, steps: int, lr: float = 1e-4, seed: int = 0
) -> dict[str, Method]:
    """Methods with their features fine-tuned on a clip's first frame; those that share them share them still."""
    own: dict[int, Features] = {}
    result = {}
    for name, (features, matching, refined) in methods.items():
        if id(features) not in own:
            own[id(features)] = finetune(features, clip, steps=steps, lr=lr, seed=seed)
        result[name] = Method(own[id(features)], Matching(matching.kind, matching.config), refined)
    return result
