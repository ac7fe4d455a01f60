"""What is printed and written of a comparison."""

from __future__ import annotations

from tabulate import tabulate

from demos.files import csv_text
from demos.vos.evaluate import Results, Scores
from demos.vos.scores import davis_summary
from difflayers.metrics import sequence_statistics

SCORES_NAME, EVERY_OBJECT_NAME = "scores.csv", "scores-every-object.csv"


def table(scores: Scores) -> list[list[str]]:
    """A header; a row for each clip, J / F of each method; the mean over all objects."""
    methods = list(scores)
    rows = [["clip", "objects", *methods]]
    for clip, of_clip in scores[methods[0]].items():
        cells = [davis_summary([scores[method][clip]]) for method in methods]
        rows.append([clip, str(len(of_clip.objects)), *(f"{c.J.mean:.3f} / {c.F.mean:.3f}" for c in cells)])
    total = [davis_summary(scores[method]) for method in methods]
    rows.append(["mean", str(total[0].objects), *(f"{c.J.mean:.3f} / {c.F.mean:.3f}" for c in total)])
    return rows


def print_results(results: Results) -> None:
    """The tables, and what was left out."""
    titles = {"\nJ / F:\n": results.scores}
    if results.every_object:
        titles[
            "\nJ / F of every object, in the frames after its first (as YouTube-VOS counts; this is not DAVIS's measure):\n"
        ] = results.every_object
    for title, scores in titles.items():
        header, *rows = table(scores)
        print(title)
        print(tabulate(rows, header, disable_numparse=True, stralign="right"))
    for note in results.notes:
        print(note)


def scores_csv(scores: Scores) -> bytes:
    """Mean, recall and decay of J and F: a row for each method, clip and object."""
    rows = []
    for method, of_method in scores.items():
        for clip, of_clip in of_method.items():
            for i, label in enumerate(of_clip.objects):
                row: dict[str, object] = {"method": method, "clip": clip, "object": label}
                for measure in "JF":
                    statistics = sequence_statistics(of_clip.of_object(measure)[i])
                    row |= {
                        f"{measure}_{name}": round(getattr(statistics, name), 5) for name in ("mean", "recall", "decay")
                    }
                rows.append(row)
    return csv_text(rows).encode()
