"""The example: 4x4 Sudoku learnt from solved boards, from nothing; then 9x9 boards with weights that were learnt before.

``python -m demos.sudoku`` runs it. A board is a vector of bits, one for each digit in each cell. The network is one SATNet
layer with a variable for each bit: it takes the bits of the given cells and returns the probability of every bit. The loss is
the cross-entropy between these probabilities and the bits of the solution. Nothing says that there are rows, columns and boxes.

`learn` leads from boards to a trained layer, `answer_of` from a puzzle to its answer. What a run of hours needs
beside that is in `demos.sudoku.train`: to be resumed, to share its batches among processes, to write its files safely.
``docs/tutorials/first-satnet.md`` does without: there the training of a 4x4 layer is a loop of ten lines.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from demos.files import write_atomically
from demos.sudoku.boards import Int8Array, format_line
from demos.sudoku.checkpoint import CHECKPOINT_NAME, load_checkpoint
from demos.sudoku.commands.common import describe_data, describe_result, draw, set_up_torch, verdict
from demos.sudoku.data import decode, encode, to_boards
from demos.sudoku.evaluation import Evaluation, read_jointly, search
from demos.sudoku.gallery import teach_reader, visual_board_png
from demos.sudoku.generator import generate
from demos.sudoku.images import Pool, has_mnist, load_pool, with_images
from demos.sudoku.model import BitNet, Net, SudokuNet, VisualNet, bit_net, restore, satnet_of
from demos.sudoku.options import PROGRAM, Demo
from demos.sudoku.train import CURVE_NAME, Trainer

RESULTS = Path(__file__).parent / "results"


def demo(options: Demo) -> int:
    """Learn 4x4 Sudoku, and solve boards that were not learnt from; then 9x9 boards."""
    trainer, result = learn(options)
    unseen = trainer.test_boards
    order = unseen.givens.argsort(kind="stable")
    hardest, easiest = unseen.puzzles[order[0]], unseen.puzzles[order[-1]]
    answer = answer_of(hardest, bit_net(trainer.net), seed=options.config.seed)
    print(f"\nAn unseen board with {(hardest != 0).sum()} of its 16 cells given:\n")
    print(draw(hardest, answer))
    print(f"\n{verdict(answer)}")
    print(f"\nOf the unseen boards: {describe_result(result)}.")
    print(f"Learning curve: {options.output / CURVE_NAME}")
    another = format_line(easiest).replace("0", ".")
    print(f"\nSolve another, or one of yours: {PROGRAM} solve {another} --checkpoint {options.output}")

    torch.set_num_threads(options.machine.threads or os.cpu_count() or 1)  # 9x9 boards are large enough to gain by it
    solve_large(options)
    solve_images(options)
    return 0


def learn(options: Demo) -> tuple[Trainer, Evaluation]:
    """Train a layer on generated boards; return also how it does on others, whose solutions it never saw."""
    config = options.config
    set_up_torch(options.machine.device, options.machine.threads, config.box)
    if (options.output / CHECKPOINT_NAME).is_file() and load_checkpoint(options.output).name == "demo":
        print(f"replacing the earlier demo in {options.output}")
    else:
        Trainer.check_output(options.output)
    print(describe_data(config))
    print(f"{config.network_description}, from random weights", flush=True)
    trainer = Trainer(config, options.output, name="demo", device=options.machine.device)
    return trainer, trainer.fit()


@torch.no_grad()
def answer_of(puzzle: Int8Array, net: BitNet, *, seed: int) -> Int8Array:
    """Complete one puzzle, (N ** 2,), by one pass of the network."""
    puzzles = torch.from_numpy(puzzle)[None].to(net.device)
    bits, given = encode(puzzles)  # N bits a cell, and which of them are given
    probabilities = net.eval()(bits, given, generator=torch.Generator(net.device).manual_seed(seed))
    answers = decode(probabilities, puzzles)  # of each blank cell the most probable digit
    return answers[0].cpu().numpy()


def solve_large(options: Demo) -> None:
    """Solve a 9x9 board by search."""
    net, limit = _shipped("original-9x9", options.machine.device)
    hard = generate(3, 24, 1, seed=1)
    found = search(net, hard.puzzles, limit, paths=30)
    answer = to_boards(found.values)[0]
    print(f"\n9x9, with the weights in {RESULTS / 'original-9x9'}: a board with 24 cells given, by search.\n")
    print(draw(hard.puzzles[0], answer))
    said = "accepts" if found.accepted[0] else "does not accept"
    print(f"\nThe learnt objective {said} it, after {found.passes[0]} forward passes. {verdict(answer)}")


def solve_images(options: Demo) -> None:
    """Read and solve 9x9 boards whose given cells are images of digits, and draw one."""
    device, mnist_root = options.machine.device, options.config.mnist_root
    if mnist_root is not None and has_mnist(mnist_root):
        net, pool, limit, told = _mnist_reader(device, mnist_root)
    else:
        original, limit = _shipped("original-9x9", device)
        net, pool, told = _digits_reader(satnet_of(original), device)
        told += f" (MNIST is not in {mnist_root}; --mnist-root says where it is)"
    boards = with_images(generate(3, 34, 10, seed=2), pool, seed=0)
    net.eval()
    with torch.no_grad():
        seen = net.read(*net.inputs(boards)).argmax(-1).cpu().numpy().astype(np.int8) + 1
    misread = ((seen != boards.puzzles) & (boards.puzzles != 0)).sum(1)
    answers = to_boards(read_jointly(net, boards, limit, readings=20, paths=1).values)
    right = (answers == boards.solutions).all(1)
    # The first that is misread and right in the end, if there is one.
    chosen = int(((misread > 0) * (1 + right)).argmax())
    picture = options.output / "images-9x9.png"
    title = "A board of images of digits; blue: completed, red: read wrongly at first (small), and corrected"
    write_atomically(picture, visual_board_png(boards[chosen : chosen + 1], seen[chosen], answers[chosen], title))
    print(
        f"\n{len(boards)} boards whose {boards.givens[0]} given cells are images: {told}.\n"
        f"By itself it misreads a digit on {(misread > 0).sum()} of them; decoded jointly with the rules, {right.sum()} come "
        "out wholly right.\n"
        f"Picture of one that it misreads: {picture}"
    )


def _shipped(name: str, device: str) -> tuple[Net, float | None]:
    """Load a network of ``results``, and its limit for the learnt objective."""
    checkpoint = load_checkpoint(RESULTS / name)
    return restore(checkpoint).to(device), checkpoint.limit


def _mnist_reader(device: str, mnist_root: str) -> tuple[VisualNet, Pool, float | None, str]:
    """Return the network trained on MNIST, the test images, its limit, and words for them."""
    net, limit = _shipped("visual-9x9", device)
    assert isinstance(net, VisualNet)
    told = f"MNIST's test images, read and completed with the weights in {RESULTS / 'visual-9x9'}"
    return net, load_pool("mnist", train=False, mnist_root=mnist_root), limit, told


def _digits_reader(solver: SudokuNet, device: str) -> tuple[VisualNet, Pool, str]:
    """Teach a reader scikit-learn's digits in front of a solver; return both, the test images, and words for them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = VisualNet(solver).to(device)
        teach_reader(net, load_pool("digits", train=True))
    told = "scikit-learn's digits, which a small reader in front of the same layer has just learnt"
    return net, load_pool("digits", train=False), told
