"""The sources of proposals by the names that the command line gives them."""

from __future__ import annotations

from pathlib import Path

from demos.vos.data import listed
from demos.vos.proposals import ProposalSource
from demos.vos.proposals.embedded import EmbeddedProposals
from demos.vos.proposals.files import CocoProposals, PaletteProposals
from demos.vos.proposals.network import MaskNetwork
from demos.vos.proposals.noisy import NoisyProposals
from demos.vos.proposals.pasted import PastedProposals


def source_from(
    proposals: str | Path, *, top: int = 50, seed: int = 0, network: MaskNetwork | None = None
) -> ProposalSource:
    """The source that the option ``--proposals`` names: ``noisy``, ``embedded``, or a folder of palette PNGs or COCO JSON.

    `network` draws the masks of ``embedded``.
    """
    if str(proposals) == "noisy":
        return NoisyProposals(seed=seed, top=top)
    if str(proposals) == "embedded":
        return EmbeddedProposals(top=top, network=network)
    root = Path(proposals)
    if not root.is_dir():
        raise ValueError(
            f"--proposals: {root} is no folder; wanted one of palette PNGs or COCO JSON, noisy or embedded"
        )
    is_coco = any(path.suffix == ".json" for path in listed(root))
    return PastedProposals(CocoProposals(root, top=top) if is_coco else PaletteProposals(root, top=top), top=top)
