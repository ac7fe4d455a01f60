"""The command line, from options to files, on tiny clips."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from pretended_cuda import Cuda

from demos.vos.__main__ import main
from demos.vos.checkpoint import NAMES, load_trained
from demos.vos.data import read_davis
from demos.vos.demo import SHEET_NAME, VIDEO_NAME
from demos.vos.evaluate import UNMATCHED_COSTS
from demos.vos.images import read_labels, write_labels
from demos.vos.pictures import contact_sheet_png, overlay, side_by_side, write_video
from demos.vos.report import SCORES_NAME
from demos.vos.synthetic import SyntheticClip, SyntheticConfig
from demos.vos.train import Trainer

QUICK = ["--epochs", "1", "--steps", "2", "--batch-size", "2"]
SHAPES = SyntheticConfig(frames=5, height=48, width=64, objects=2, look_alikes=0, distractors=1, bars=0, speed=0.3)
DAVIS_2016 = Path(__file__).parents[3] / "shared" / "data" / "davis2016"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    assert main(["train", "--train-clips", "2", *QUICK, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two synthetic clips as DAVIS would have them, with their shapes as proposals."""
    root = tmp_path_factory.mktemp("davis")
    for seed in (5, 6):
        clip = SyntheticClip(seed, SHAPES)
        for t in range(len(clip)):
            path = root / "JPEGImages" / "480p" / clip.name / f"{t:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(clip.frame(t)).save(path, quality=95)
            write_labels(root / "Annotations" / "480p" / clip.name / f"{t:05d}.png", clip.labels(t))
            write_labels(root / "Proposals" / clip.name / f"{t:05d}.png", clip.instances(t))
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("synthetic-5\n")
    return root


def decoded(path: Path, height: int, width: int) -> np.ndarray:
    """The frames of a video, (T, H, W, 3)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--train-clips", "2", "--test-clips", "1", "--tuning-clips", "1", "--objects", "2"]
    command = [*few, *QUICK, "--output", str(tmp_path / "vos")]
    assert main(command) == 0
    text = capsys.readouterr().out
    for name in ("greedy", "Hungarian", "DMM, per pair", "DMM, layer", "DMM, refined", "best proposal", "J / F"):
        assert name in text
    found = sorted(path.name for path in (tmp_path / "vos").iterdir())
    assert found == sorted([SCORES_NAME, SHEET_NAME, VIDEO_NAME, *(NAMES[name] for name in ("pairs", "refined"))])
    scores = rows(tmp_path / "vos" / SCORES_NAME)
    assert len(scores) == 6 * 2 and all(0 <= float(row["J_mean"]) <= 1 for row in scores)
    with Image.open(tmp_path / "vos" / SHEET_NAME) as image:
        assert image.width > 800
    video = decoded(tmp_path / "vos" / VIDEO_NAME, 3 * (2 * 96 + 16), 3 * 320)
    assert len(video) == 24
    scores_before = (tmp_path / "vos" / SCORES_NAME).read_bytes()
    assert main(command) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (tmp_path / "vos" / SCORES_NAME).read_bytes() == scores_before


def test_train_resumes_and_overwrites_only_when_asked(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--train-clips", "2", *QUICK, "--output", str(checkpoint)]
    before = (checkpoint / NAMES["layer"]).read_bytes()
    assert main(command) == 2
    assert "exists; pass" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "resuming after epoch 1 of 1" in capsys.readouterr().out
    assert (checkpoint / NAMES["layer"]).read_bytes() == before
    assert main([*command, "--resume", "--overwrite"]) == 2
    assert "got both" in capsys.readouterr().err


def test_a_refinement_is_evaluated_beside_the_plain_masks(
    davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--refine", "--amp", "--train-clips", "2", "--tuning-clips", "0", *QUICK]
    assert main([*command, "--output", str(tmp_path)]) == 0
    proposals = ["--proposals", str(davis / "Proposals")]
    assert main(["eval", str(davis), *proposals, "--features", str(tmp_path), "--matchings", "greedy", "dmm"]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "best proposal" in line)
    assert [name.strip() for name in header.split("  ") if name.strip()] == [
        "clip",
        "objects",
        "greedy",
        "greedy, refined",
        "dmm",
        "dmm, refined",
        "best proposal",
    ]
    assert main([*command, "--output", str(tmp_path), "--overwrite", "--loss", "pairs"]) == 2
    assert "--refine: got --loss pairs, wanted layer" in capsys.readouterr().err


def test_train_on_files_with_pasted_objects(davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--data", str(davis), "--loss", "pairs", *QUICK, "--output", str(tmp_path)]
    assert main([*command, "--tuning-clips", "1"]) == 0
    text = capsys.readouterr().out
    assert "1 clips; mean loss" in text and "Unmatched costs, by J on 1 other clips: greedy" in text
    costs = load_trained(tmp_path / NAMES["pairs"]).unmatched_costs
    assert set(costs) == {"greedy", "hungarian", "dmm", "quadratic"} and set(costs.values()) <= set(UNMATCHED_COSTS)
    sparse = tmp_path / "sparse"
    for clip in read_davis(davis, split=None):
        for t, path in enumerate(clip.paths):
            for folder, name in (("JPEGImages", path.name), ("Annotations", f"{path.stem}.png")):
                if folder == "JPEGImages" or t != 3 or clip.name == "synthetic-5":
                    target = sparse / folder / clip.name / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(davis / folder / "480p" / clip.name / name)
    other = ["train", "--data", str(sparse), "--layout", "youtube-vos", *QUICK, "--output", str(tmp_path / "other")]
    assert main([*other, "--tuning-clips", "1"]) == 0
    assert "1 clips; mean loss" in (text := capsys.readouterr().out) and "Unmatched costs" not in text
    assert main([*command, "--overwrite", "--tuning-clips", "2"]) == 2
    assert "--tuning-clips: got 2 of 2 clips" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert "2 clips; mean loss" in capsys.readouterr().out and (tmp_path / NAMES["pairs"]).is_file()
    assert main([*command, "--overwrite", "--paste", "1"]) == 2
    assert "--paste: clips: got 2, wanted 3 of one size or more" in capsys.readouterr().err


def test_eval_on_davis(davis: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(davis), "--proposals", str(davis / "Proposals"), "--features", f"mine={checkpoint}"]
    command += ["--output", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert main([*command, "--split", "val"]) == 0
    text = capsys.readouterr().out
    assert "synthetic-5" in text and "synthetic-6" not in text and "dmm, mine" in text
    assert "1.000 / 1.000" in text  # the best proposal: they are the truth
    scores = rows(tmp_path / SCORES_NAME)
    assert {row["method"] for row in scores} == {"greedy, mine", "hungarian, mine", "dmm, mine", "best proposal"}
    labels = read_labels(tmp_path / "dmm-mine" / "synthetic-5" / "00000.png")
    clip = read_davis(davis)[0]
    assert np.array_equal(labels, clip.labels(0))
    assert len(list((tmp_path / "cache" / "synthetic-5").iterdir())) == 5
    assert main([*command, "--split", "val"]) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    more = ["--overwrite", "--clips", "synthetic-6", "--matchings", "dmm", "quadratic", "--finetune", "1"]
    assert main([*command, *more]) == 0
    assert main([*command, *more[:-1], "-1"]) == 2
    assert "--finetune: got -1, wanted 0 or more" in capsys.readouterr().err
    assert {row["clip"] for row in rows(tmp_path / SCORES_NAME)} == {"synthetic-6"}


def test_train_and_eval_on_cuda(
    cuda: Cuda,
    davis: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: Callable[[int], Callable[[float], None]],
) -> None:
    training = ["train", "--refine", "--amp", "--train-clips", "2", "--tuning-clips", "1", *QUICK, "--epochs", "2"]
    tracking = ["eval", str(davis), "--proposals", str(davis / "Proposals"), "--finetune", "1"]
    tracking += ["--matchings", "greedy", "hungarian", "dmm", "quadratic"]
    fit = Trainer.fit
    for device in ("cpu", "cuda"):
        where = ["--device", device]
        trained, tracked = tmp_path / device / "trained", tmp_path / device / "tracked"
        if device == "cuda":  # and goes on after its first epoch
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "fit", lambda trainer, progress: fit(trainer, stop_after(3)))
                assert main([*training, "--output", str(trained), *where]) != 0
        resume = ["--resume"] if device == "cuda" else []
        assert main([*training, "--output", str(trained), *resume, *where]) == 0
        assert cuda.used() == (device == "cuda")
        assert main([*tracking, "--features", str(trained), "--output", str(tracked), *where]) == 0
        assert cuda.used() == (device == "cuda")
    scores, weights = [], []
    for device in ("cpu", "cuda"):
        scores.append(rows(tmp_path / device / "tracked" / SCORES_NAME))
        checkpoint = tmp_path / device / "trained" / NAMES["refined"]
        weights.append(load_trained(checkpoint).features.state_dict())
    assert len(scores[0]) == len(scores[1])
    if cuda.exact:
        assert scores[0] == scores[1]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_demo_on_cuda(cuda: Cuda, tmp_path: Path) -> None:
    few = ["--train-clips", "2", "--test-clips", "1", "--tuning-clips", "1", "--objects", "2"]
    assert main([*few, *QUICK, "--output", str(tmp_path), "--device", "cuda"]) == 0 and cuda.used()


def test_eval_on_youtube_vos_and_segtrack(
    davis: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = read_davis(davis)[0]
    for t, path in enumerate(clip.paths):
        target = tmp_path / "JPEGImages" / clip.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        labels = clip.labels(t)
        assert labels is not None
        if t % 2 == 0:
            write_labels(tmp_path / "Annotations" / clip.name / f"{path.stem}.png", labels)
        for k in (1, 2):
            mask = tmp_path / "GroundTruth" / clip.name / str(k) / f"{path.stem}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(labels == k, np.uint8(255), np.uint8(0))).save(mask)
    command = ["eval", str(tmp_path), "--proposals", str(davis / "Proposals"), "--features", str(checkpoint)]
    assert main([*command, "--layout", "youtube-vos"]) == 0
    assert "1.000 / 1.000" in capsys.readouterr().out
    assert "G " not in capsys.readouterr().out
    video = {clip.name: {"objects": {"1": {"category": "ape"}, "2": {"category": "bee"}}}}
    (tmp_path / "meta.json").write_text(json.dumps({"videos": video}))
    training = tmp_path / "train.json"
    training.write_text(json.dumps({"videos": {"other": {"objects": {"1": {"category": "bee"}}}}}))
    assert main([*command, "--layout", "youtube-vos", "--seen", str(training)]) == 0
    assert "best proposal: G 1.000 (J seen 1.000, unseen 1.000; F seen 1.000, unseen 1.000)" in capsys.readouterr().out
    assert main([*command, "--layout", "youtube-vos", "--seen", str(tmp_path / "none.json")]) == 2
    assert f"--seen: {tmp_path / 'none.json'}: no such file" in capsys.readouterr().err
    training.write_text('{"videos": {}}')
    assert main([*command, "--layout", "youtube-vos", "--seen", str(training)]) == 2
    assert "names no categories" in capsys.readouterr().err
    assert main([*command, "--layout", "segtrack"]) == 0
    assert "best proposal: mIoU 1.000 over objects, 1.000 over frames" in capsys.readouterr().out


def test_eval_on_pasted_clips(
    davis: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (7, 8):
        clip = SyntheticClip(seed, SHAPES)
        for t in range(len(clip)):
            path = tmp_path / "JPEGImages" / "480p" / clip.name / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(clip.frame(t)).save(path)
            write_labels(tmp_path / "Annotations" / "480p" / clip.name / f"{t:05d}.png", clip.labels(t))
            write_labels(tmp_path / "Proposals" / clip.name / f"{t:05d}.png", clip.instances(t))
    for folder in ("JPEGImages/480p", "Annotations/480p", "Proposals"):
        (tmp_path / folder / "synthetic-5").symlink_to(davis / folder / "synthetic-5")
    command = ["eval", str(tmp_path), "--proposals", str(tmp_path / "Proposals"), "--features", str(checkpoint)]
    assert main([*command, "--paste", "2", "--matchings", "dmm", "--output", str(tmp_path / "out")]) == 0
    scores = rows(tmp_path / "out" / SCORES_NAME)
    assert len({row["clip"] for row in scores}) == 2 and all(row["clip"].count("@") == 2 for row in scores)
    best = [float(row["J_mean"]) for row in scores if row["method"] == "best proposal"]
    assert len(best) >= 8 and min(best) == 1
    assert main([*command, "--paste", "7"]) == 2
    assert "--paste: count: got 7, wanted 0 to 6" in capsys.readouterr().err


def test_eval_without_truth(davis: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of DAVIS's challenges: the first frame's labels are all there is."""
    name = "synthetic-5"
    (tmp_path / "JPEGImages" / "480p").mkdir(parents=True)
    (tmp_path / "JPEGImages" / "480p" / name).symlink_to(davis / "JPEGImages" / "480p" / name)
    given = tmp_path / "Annotations" / "480p" / name / "00000.png"
    given.parent.mkdir(parents=True)
    given.symlink_to(davis / "Annotations" / "480p" / name / "00000.png")
    command = ["eval", str(tmp_path), "--proposals", str(davis / "Proposals"), "--features", str(checkpoint)]
    assert main(command) == 2
    assert "frame 00001 has no labels" in capsys.readouterr().err
    assert main([*command, "--labels-only"]) == 2
    assert "--labels-only: got no --output" in capsys.readouterr().err
    assert main([*command, "--labels-only", "--matchings", "dmm", "--output", str(tmp_path / "out")]) == 0
    assert "Labels of 1 clips by dmm" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "dmm" / name).iterdir())) == 5
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dmm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-clips", "0"], "--test-clips: got 0, wanted 1 or more"),
        (["--epochs", "0"], "--epochs: got 0, wanted 1 or more"),
        (["train", "--backbone", "vgg"], "invalid choice 'vgg' for argument '--backbone'"),
        (["train", "--proposals", "nowhere"], "nowhere is no folder"),
        (["train", "--tuning-clips", "-1"], "--tuning-clips: got -1, wanted 0 or more"),
        (["train", "--data", "nowhere"], "--data: nowhere"),
        (["train", "--output", __file__], "--output: "),
        (
            ["train", "--export", "runs/vos-train/layer.safetensors"],
            "--export: runs/vos-train/layer.safetensors is the",
        ),
        (
            ["eval", "nowhere", "--proposals", "noisy", "--features", "x"],
            "DATA: nowhere/JPEGImages/480p: no such folder",
        ),
        (
            ["eval", "nowhere", "--proposals", "noisy", "--split", "val", "--layout", "segtrack"],
            "--split: got it with",
        ),
        (
            ["eval", "nowhere", "--proposals", "noisy", "--matchings", "dmm", "dmm"],
            "--matchings: got dmm dmm, wanted",
        ),
        (["eval", "nowhere", "--proposals", "noisy", "--matchings", "best"], "'--matchings'"),
        (
            ["eval", "nowhere", "--proposals", "noisy", "--unmatched-cost", "-1.5"],
            "--unmatched-cost: got -1.5, wanted -1 to 1",
        ),
        (
            ["eval", "nowhere", "--proposals", "noisy", "--finetune-lr", "nan"],
            "--finetune-lr: got nan, wanted a positive",
        ),
        (["eval", "nowhere", "--proposals", "noisy", "--paste", "0"], "--paste: got 0, wanted 1 or more"),
        (["eval", "nowhere"], "--proposals"),
        (["eval", "nowhere", "--proposals", "noisy", "--features", "x", "--seen", "x"], "wanted youtube-vos"),
    ],
)
def test_wrong_options(
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_eval_errors(davis: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", str(davis), "--proposals", str(davis / "Proposals"), "--features"]
    for more, message in (
        ([str(tmp_path)], "has 0 checkpoints, wanted one"),
        ([str(tmp_path / "none")], "no file"),
        ([str(checkpoint), str(checkpoint)], "got two of one name"),
        ([str(checkpoint), "--clips", "gnu"], "--clips: got gnu, which"),
        ([str(checkpoint), "--top", "0"], "--top: got 0, wanted 1 or more"),
        ([str(checkpoint), "--layout", "segtrack"], "DATA: "),
        ([f"a/b={checkpoint}"], "wanted NAME=PATH with a name that a folder can have"),
        ([str(checkpoint), "--cache", __file__], "--cache: "),
        ([str(checkpoint), "--output", __file__], "--output: "),
        ([str(checkpoint), "--proposals", __file__], "--proposals: "),
        ([str(checkpoint), "--proposals", "maskrcnn", "--weights", "none.pt"], "--weights: no file none.pt"),
        ([str(checkpoint), "--proposals", "maskrcnn", "--detector", "resnet101"], "--weights: torchvision has COCO"),
    ):
        assert main([*command, *more]) == 2
        assert message in (error := capsys.readouterr().err) and error.count("\n") == 1
    (tmp_path / "out" / "dmm").mkdir(parents=True)
    assert main([*command, str(checkpoint), "--output", str(tmp_path / "out")]) == 2
    assert "dmm exists; pass --overwrite to replace it" in capsys.readouterr().err


def test_features_in_a_folder_whose_name_has_an_equals_sign(davis: Path, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").symlink_to(checkpoint)
    command = [
        "eval",
        str(davis),
        "--proposals",
        str(davis / "Proposals"),
        "--clips",
        "synthetic-5",
        "--matchings",
        "greedy",
    ]
    assert main([*command, "--features", str(tmp_path / "lr=0.1"), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "greedy" / "synthetic-5").is_dir()


def test_a_clip_without_objects_is_left_out(davis: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part).symlink_to(davis / part / "480p") if part == "JPEGImages" else (tmp_path / part).mkdir()
    (tmp_path / "Annotations" / "synthetic-5").symlink_to(davis / "Annotations" / "480p" / "synthetic-5")
    for t in range(5):
        write_labels(tmp_path / "Annotations" / "synthetic-6" / f"{t:05d}.png", np.zeros((48, 64), np.uint8))
    command = ["eval", str(tmp_path), "--resolution", "none", "--proposals", str(davis / "Proposals")]
    assert main([*command, "--matchings", "greedy"]) == 0
    text = capsys.readouterr().out
    assert "synthetic-6: not tracked, as no frame has an object" in text and "\nsynthetic-5" in text


def test_pictures(tmp_path: Path) -> None:
    clip = SyntheticClip(5, SHAPES)
    frames, labels = [clip.frame(t) for t in range(3)], [clip.labels(t) for t in range(3)]
    shown = overlay(frames[0], labels[0])
    assert np.array_equal(shown[labels[0] == 0], frames[0][labels[0] == 0])
    assert (shown[labels[0] == 1] != frames[0][labels[0] == 1]).any()
    assert np.array_equal(overlay(frames[0], labels[0] * 0), frames[0])
    png = contact_sheet_png(frames, {"a": labels}, times=[0, 2])
    assert png == contact_sheet_png(frames, {"a": labels}, times=[0, 2]) and png[:4] == b"\x89PNG"
    tiles = list(side_by_side(frames, {"a": labels, "b": labels, "c": labels}, columns=2))
    assert len(tiles) == 3 and tiles[0].shape == (2 * (48 * 5 + 16), 2 * 64 * 5, 3)
    odd = [frame[:47, :63] for frame in frames]
    write_video(tmp_path / "a" / "odd.mp4", odd)
    video = decoded(tmp_path / "a" / "odd.mp4", 46, 62)
    assert len(video) == 3 and np.abs(video[0].mean((0, 1)) - odd[0].mean((0, 1))).max() < 12
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["odd.mp4"]
    with pytest.raises(ValueError, match="must end in"):
        write_video(tmp_path / "a.gif", odd)
    with pytest.raises(ValueError, match="got none"):
        write_video(tmp_path / "none.mp4", [])


@pytest.mark.skipif(not DAVIS_2016.is_dir(), reason="no DAVIS 2016 in ../shared/data")
def test_eval_on_real_frames(checkpoint: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The first four frames of one clip, in a layout of links."""
    for part in ("JPEGImages", "Annotations", "Proposals"):
        folder = tmp_path / part / "480p" / "libby"
        folder.mkdir(parents=True)
        for path in sorted((DAVIS_2016 / part / "480p" / "libby").iterdir())[:4]:
            (folder / path.name).symlink_to(path)
    command = ["eval", str(tmp_path), "--layout", "davis2016", "--proposals", str(tmp_path / "Proposals" / "480p")]
    assert main([*command, "--features", str(checkpoint)]) == 0
    assert "libby" in capsys.readouterr().out
