"""Permuted boards, boards of images, convolutional networks, random masks."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from demos.sudoku import train
from demos.sudoku.boards import Boards
from demos.sudoku.checkpoint import load_checkpoint
from demos.sudoku.config import TrainConfig
from demos.sudoku.data import encode
from demos.sudoku.generator import generate
from demos.sudoku.images import draw, has_mnist, load_pool, with_images
from demos.sudoku.masks import decimate, mask
from demos.sudoku.model import ConvNet, SudokuNet, VisualNet, bit_loss, bit_net, build, satnet_of
from demos.sudoku.train import Trainer


def silent(_: str) -> None:
    """Log nothing."""


# --- permuted -----------------------------------------------------------------------------------------------


def test_permuted_network_is_the_plain_one_on_permuted_bits(small: TrainConfig) -> None:
    net = build(replace(small, permuted=True))
    assert isinstance(net, SudokuNet) and net.permutation is not None
    assert not torch.equal(net.permutation, torch.arange(64))
    bits, given = encode(torch.from_numpy(generate(2, 6, 5).puzzles))
    out = net(bits, given, generator=torch.Generator().manual_seed(0))
    plain = SudokuNet(2, aux=small.aux, m=small.m, k=small.k)
    plain.layer.load_state_dict(net.layer.state_dict())
    order = net.permutation
    inside = plain(bits[:, order], given[:, order], generator=torch.Generator().manual_seed(0))
    assert torch.equal(out[:, order], inside)
    assert torch.equal(out[given], bits[given])
    again = build(replace(small, permuted=True))
    assert isinstance(again, SudokuNet) and again.permutation is not None
    assert torch.equal(again.permutation, order)


def test_permutation_is_checked() -> None:
    with pytest.raises(ValueError, match="permutation: wanted each of 0 to 63 once"):
        SudokuNet(2, aux=1, m=8, permutation=torch.zeros(64, dtype=torch.int64))


# --- convolutional networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_convolutional_network(masked: bool) -> None:
    torch.manual_seed(0)
    net = ConvNet(2, masked=masked, layers=2, filters=8).eval()
    bits, given = encode(torch.from_numpy(generate(2, 6, 5).puzzles))
    image = net._image(bits, 4)
    assert image.shape == (5, 4, 4, 4)
    assert image[3, 2, 1, 0] == bits[3, (1 * 4 + 0) * 4 + 2]
    seen: list[torch.Tensor] = []
    net.body[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    out = net(bits, given)
    assert out.shape == bits.shape and ((out > 0) & (out < 1)).all()
    assert torch.equal(net(bits, ~given), out) == (not masked)
    assert seen[0].shape[1] == (8 if masked else 4)
    # The output is laid out as the input is: with a body of one identity, each bit comes back.
    net.body = torch.nn.Sequential(torch.nn.Identity())
    if not masked:
        assert torch.allclose(net(bits, given), bits.sigmoid())


def test_search_wants_the_learnt_objective(small: TrainConfig) -> None:
    with pytest.raises(ValueError, match="network: got a ConvNet, wanted one with a SATNet layer"):
        satnet_of(build(replace(small, network="convnet", layers=1, filters=4)))


def test_convolutional_run(small: TrainConfig, tmp_path: Path) -> None:
    config = replace(small, network="convnet-mask", layers=2, filters=16, epochs=1, permuted=True)
    Trainer(config, tmp_path, log=silent).fit()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.limit is None
    net = build(checkpoint.config)
    net.load_state_dict(checkpoint.model)
    result = Trainer.resume(tmp_path, log=silent).fit()
    assert result.boards_right == checkpoint.history[-1].boards_right


# --- random masks -------------------------------------------------------------------------------------------


def test_masks_are_new_each_time(small: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(small, masks=(3, 5)), tmp_path, log=silent)
    solutions = torch.from_numpy(trainer.train_boards.solutions[:200])
    first, second = (mask(solutions, (3, 5), trainer.generators["masks"]) for _ in range(2))
    assert not torch.equal(first, second)
    for puzzles in (first, second):
        counts = (puzzles != 0).sum(1)
        assert sorted(set(counts.tolist())) == [3, 4, 5]
        assert torch.equal(puzzles[puzzles != 0], solutions[puzzles != 0])
    assert ((first != 0).float().mean(0) > 0.1).all()  # any cell may be given


def boards_shown(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Boards:
    """Train on a batch and return what the network was shown."""
    seen: list[Boards] = []
    inputs = trainer.net.inputs

    def record(boards: Boards) -> tuple[Tensor, Tensor]:
        seen.append(boards)
        return inputs(boards)

    monkeypatch.setattr(trainer.net, "inputs", record)
    trainer._train_batch(trainer.train_boards[:10])
    (shown,) = seen
    return shown


def test_masks_are_used(small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(replace(small, masks=(3, 3)), tmp_path, log=silent)
    assert boards_shown(trainer, monkeypatch).givens.tolist() == [3] * 10


def test_decimation_gives_the_most_confident_cells_that_are_right(
    small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(replace(small, masks=(3, 5), decimation=2), tmp_path, log=silent)
    solutions = torch.from_numpy(trainer.train_boards.solutions[:20])
    puzzles = mask(solutions, (3, 5), trainer.generators["masks"])
    sure = torch.rand(20, 16, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.6
    right = torch.rand(20, 16, generator=torch.Generator().manual_seed(1)) < 0.7
    digits = torch.where(right, solutions, solutions % 4 + 1) - 1
    probabilities = torch.zeros(20, 16, 4).scatter_(2, digits[..., None].long(), sure[..., None]).flatten(1)
    monkeypatch.setattr(trainer.net, "forward", lambda bits, given, *, generator: probabilities)
    found = decimate(bit_net(trainer.net), puzzles, solutions, trainer.generators["starts"])
    for i in range(20):
        blank = (puzzles[i] == 0).nonzero()[:, 0]
        chosen = blank[sure[i, blank].argsort(descending=True)][: -(-len(blank) // 8)]
        wanted = puzzles[i].clone()
        wanted[chosen] = torch.where(right[i, chosen], solutions[i, chosen], 0)
        assert torch.equal(found[i], wanted)
    assert (found != puzzles).any()


def test_decimation_is_used(small: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(replace(small, masks=(3, 3), decimation=2), tmp_path, log=silent)
    monkeypatch.setattr(train, "decimate", lambda net, puzzles, *_: torch.where(puzzles == 1, 0, puzzles))
    puzzles = boards_shown(trainer, monkeypatch).puzzles
    assert (puzzles > 1).any() and not (puzzles == 1).any()


def test_weight_decay(small: TrainConfig, tmp_path: Path) -> None:
    plain, decaying = (
        Trainer(replace(small, lr=1e-3, weight_decay=decay), tmp_path, log=silent) for decay in (0.0, 100.0)
    )
    before = satnet_of(plain.net).layer.S.detach().clone()
    for trainer in (plain, decaying):
        trainer._train_batch(trainer.train_boards[:10])
    moved, shrunk = (satnet_of(trainer.net).layer.S.detach() for trainer in (plain, decaying))
    torch.testing.assert_close(shrunk, moved - 0.1 * before, atol=1e-6, rtol=1e-5)


# --- images -------------------------------------------------------------------------------------------------


def test_images_of_boards() -> None:
    pool = load_pool("digits", train=True)
    boards = generate(3, 34, 4)
    drawn = with_images(boards, pool, seed=0)
    given = boards.puzzles != 0
    assert (drawn.picks[~given] == -1).all()
    assert (pool.labels[drawn.picks[given]] == boards.puzzles[given]).all()
    images = drawn.images()
    assert images.shape == (int(given.sum()), 28, 28) and images.dtype == torch.float32
    assert 0 <= images.min() and 0.9 < images.max() <= 1
    one = drawn[2:3]
    start = int(given[:2].sum())
    assert torch.equal(one.images(), images[start : start + int(given[2].sum())])
    assert (with_images(boards, pool, seed=0).picks == drawn.picks).all()
    assert (with_images(boards, pool, seed=1).picks != drawn.picks).any()


def test_training_and_test_images_do_not_mix() -> None:
    train, test = (load_pool("digits", train=part).images.flatten(1) for part in (True, False))
    assert (len(train), len(test)) == (1297, 500)
    assert not {row.numpy().tobytes() for row in train} & {row.numpy().tobytes() for row in test}


def test_a_digit_without_an_image() -> None:
    with pytest.raises(ValueError, match="labels: got no image of the digit 2"):
        draw(np.array([[1, 2, 0, 0]], np.int8), np.array([1, 1]), np.random.default_rng(0))


def write_mnist(root: Path, *, packed: bool) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 4), ("t10k", 3)):
        images = np.arange(count * 784, dtype=np.int64).astype(np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        sizes = (count, 28, 28)
        for name, header, values in (
            (f"{part}-images-idx3-ubyte", b"\0\0\x08\x03" + b"".join(s.to_bytes(4, "big") for s in sizes), images),
            (f"{part}-labels-idx1-ubyte", b"\0\0\x08\x01" + count.to_bytes(4, "big"), labels),
        ):
            raw_bytes = header + values.tobytes()
            if packed:
                (raw / f"{name}.gz").write_bytes(gzip.compress(raw_bytes))
            else:
                (raw / name).write_bytes(raw_bytes)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_packed_or_not(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path, packed=packed)
    before = sorted(tmp_path.rglob("*"))
    assert has_mnist(tmp_path) and not has_mnist(tmp_path / "MNIST")
    pool = load_pool("mnist", train=False, mnist_root=tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert pool.images.shape == (3, 28, 28) and pool.labels.tolist() == [0, 1, 2]
    assert pool.images[1, 0, 0] == 784 % 256
    assert len(load_pool("mnist", train=True, mnist_root=tmp_path).labels) == 4


def test_mnist_that_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    with pytest.raises(ValueError, match=r"mnist_root: MNIST is not in .* could not be downloaded \(no network\)"):
        load_pool("mnist", train=True, mnist_root=tmp_path)
    with pytest.raises(ValueError, match="mnist_root: got none"):
        load_pool("mnist", train=True)
    with pytest.raises(ValueError, match="images: got 'letters'"):
        load_pool("letters", train=True)


def test_reader_in_front_of_the_layer(small: TrainConfig) -> None:
    net = build(replace(small, images="digits"))
    assert isinstance(net, VisualNet)
    boards = with_images(generate(2, 6, 5), load_pool("digits", train=True), seed=0)
    images, cells = net.inputs(boards)
    read = net.read(images, cells)
    assert read.shape == (5, 16, 4)
    assert torch.allclose(read.sum(-1), cells.float())
    one_by_one = torch.cat([net.eval().read(images[:6], cells[:1]), net.read(images[6:], cells[1:])])
    assert torch.allclose(net.read(images, cells), one_by_one, atol=1e-6)
    # Without labels of given cells the reader learns through the layer alone.
    net.train()
    given = encode(torch.from_numpy(boards.puzzles))[1]
    target = encode(torch.from_numpy(boards.solutions))[0]
    loss = bit_loss(net(images, cells, generator=torch.Generator().manual_seed(0)), target, ~given)
    torch.autograd.backward(loss)
    grad = next(net.reader.parameters()).grad
    assert grad is not None and grad.abs().max() > 0
    # Answers come from the images: a puzzle's digits have no say.
    probabilities = torch.rand(1, 64)
    wrong = torch.ones(1, 16, dtype=torch.int8)
    assert torch.equal(net.answers(probabilities, wrong).long(), probabilities.reshape(1, 16, 4).argmax(-1) + 1)
    with pytest.raises(TypeError, match="boards: got Boards, wanted ImageBoards"):
        net.inputs(generate(2, 6, 5))


def test_loss_of_the_counted_bits() -> None:
    p, target = torch.tensor([[0.25, 0.5]]), torch.tensor([[0.0, 1.0]])
    counted = torch.tensor([[False, True]])
    assert bit_loss(p, target, counted).item() == pytest.approx(-np.log(0.5))
    assert bit_loss(p, target, torch.zeros_like(counted)).item() == 0


def test_visual_run(small: TrainConfig, tmp_path: Path) -> None:
    config = replace(small, images="digits", lr=5e-3, epochs=2)
    Trainer(config, tmp_path, log=silent).fit()
    checkpoint = load_checkpoint(tmp_path)
    read = [row.given_cells_read for row in checkpoint.history]
    assert read[0] is not None and read[0] < 0.6
    assert read[-1] is not None and read[-1] > 0.8
    net = build(checkpoint.config)
    assert isinstance(net, VisualNet) and bit_net(net) is net.solver
    assert checkpoint.limit is None  # after two epochs it does not tell right from wrong


# --- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "mlp"}, "network: got 'mlp', wanted one of satnet, convnet, convnet-mask"),
        ({"images": "letters"}, "images: got 'letters', wanted mnist or digits"),
        ({"given_labels": False}, "--no-given-labels: without images the given bits pass through"),
        ({"masks": (5, 3)}, "masks: got 5-3, wanted numbers of given cells between 0 and 15"),
        ({"masks": (3, 16)}, "masks: got 3-16"),
        ({"masks": (3, 5), "images": "digits"}, "--masks, --images: got both"),
        ({"decimation": 2}, "--decimation: got 2 without --masks"),
        ({"decimation": -1}, "decimation: got -1, wanted 0 or more"),
        ({"weight_decay": -1.0}, "--weight-decay: got -1.0, wanted 0 or more and less than 1 / lr"),
        ({"filters": 0}, "filters: got 0, wanted 1 or more"),
    ],
)
def test_wrong_configuration(small: TrainConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(small, **changes)  # type: ignore[arg-type]


def test_a_run_says_what_it_is(small: TrainConfig) -> None:
    config = replace(small, permuted=True, images="mnist", given_labels=False)
    assert config.variant == ", permuted, images of MNIST, no labels of given cells"
    assert replace(small, images="digits").variant == ", images of scikit-learn's digits"
    assert replace(small, masks=(3, 5)).variant == ", 3-5 random cells given"
    assert replace(small, masks=(3, 5), decimation=2).variant.endswith(", after 2 rounds of decimation")
    assert TrainConfig.from_dict({**vars(config), "masks": [3, 5], "images": None, "given_labels": True}).masks == (
        3,
        5,
    )
