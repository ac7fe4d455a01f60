"""The tab *Matching*: the costs of a small problem, its assignment by four methods, and the gradient of one entry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demos.web import render
from difflayers import functional

START = np.array([[0.20, 0.35, 0.80, 0.60], [0.25, 0.70, 0.40, 0.90], [0.75, 0.30, 0.45, 0.50]])
Matrix = NDArray[np.float64]


def methods(gamma: float, epsilon: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name, from costs to an assignment. The gradient of the exact one is that of Vlastelica et al. (ICLR 2020)."""
    return {
        "DMM": functional.dmm_matching,
        f"Quadratic, gamma {gamma:g}": lambda cost: functional.quadratic_matching(cost, gamma),
        f"Entropic, epsilon {epsilon:g}": lambda cost: functional.entropic_matching(cost, epsilon),
        "Exact": functional.exact_matching,
    }


def assignments(cost: Matrix, gamma: float, epsilon: float) -> dict[str, Matrix]:
    """Each method's assignment, of the shape of the costs."""
    given = torch.from_numpy(cost)
    return {name: solve(given).numpy() for name, solve in methods(gamma, epsilon).items()}


def gradients(cost: Matrix, entry: tuple[int, int], gamma: float, epsilon: float) -> dict[str, Matrix]:
    """Of each method, the derivative of one entry of the assignment in every cost."""
    found = {}
    for name, solve in methods(gamma, epsilon).items():
        given = torch.from_numpy(cost.copy()).requires_grad_()
        value = solve(given)[entry]
        found[name] = torch.autograd.grad(value, given)[0].numpy() if value.requires_grad else np.zeros_like(cost)
    return found


def cost_rows(cost: Matrix) -> dict[str, Any]:
    """Costs as the sliders of the page have them."""
    rows = [
        {
            "name": f"template {i + 1}",
            "cells": [
                {"value": f"{x:.2f}", "label": f"cost of template {i + 1} and proposal {j + 1}"}
                for j, x in enumerate(row)
            ],
        }
        for i, row in enumerate(cost)
    ]
    return {"columns": [f"proposal {j + 1}" for j in range(cost.shape[1])], "rows": rows}


def costs_of(value: dict[str, Any]) -> Matrix:
    """And back."""
    return np.array([[float(cell["value"]) for cell in row["cells"]] for row in value["rows"]])


def show_assignments(cost: Matrix, gamma: float, epsilon: float, entry: tuple[int, int]) -> str:
    """The four assignments side by side, with what each costs."""
    shown = []
    for name, X in assignments(cost, gamma, epsilon).items():
        note = f"cost {(cost * X).sum():.3f}; largest column sum {X.sum(0).max():.2f}"
        shown.append(render.matrix(X, name, render.shade, note=note, entry=entry))
    return f'<div class="matrices" id="assignments">{"".join(shown)}</div>'


def show_gradients(cost: Matrix, gamma: float, epsilon: float, entry: tuple[int, int]) -> str:
    """The four gradients of one entry side by side, each in shades of its own."""
    shown = []
    for name, slope in gradients(cost, entry, gamma, epsilon).items():
        largest = max(float(np.abs(slope).max()), 1e-9)
        note = "no gradient here" if largest < 5e-3 else f"darkest: {largest:.2f}"
        shown.append(render.matrix(slope, name, partial(_slope_style, largest), note=note, entry=entry))
    return f'<div class="matrices" id="gradients">{"".join(shown)}</div>'


def _slope_style(largest: float, slope: float) -> str:
    return render.diverging(slope / largest)


_ABOUT = """Each of three templates is assigned one of four proposals, so that the costs are low. *Exact* is the cheapest
assignment. The others are smooth, so that a network can learn through them: drag a cost, and see how each of them follows."""
_SLOPES = """**Gradient**: how the marked entry of each assignment moves when a cost grows. Orange: it grows, too; blue: it
shrinks. The exact assignment stays or jumps; what is shown for it is what a large step changes (Vlastelica et al., 2020)."""


def add_tab() -> None:
    """Lay the tab out, inside of a page of Gradio's."""
    import gradio as gr

    gr.Markdown(_ABOUT)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            cost = gr.HTML(cost_rows(START), **render.widget("costs"), elem_id="costs")
            with gr.Row():
                anew = gr.Button("Random costs")
                reset = gr.Button("As they were")
        with gr.Column(min_width=300):
            gamma = gr.Slider(0.01, 1, value=0.1, step=0.01, label="gamma: how soft the quadratic one is")
            epsilon = gr.Slider(0.01, 1, value=0.05, step=0.01, label="epsilon: how soft the entropic one is")
            places = [
                f"template {i + 1}, proposal {j + 1}" for i in range(START.shape[0]) for j in range(START.shape[1])
            ]
            entry = gr.Dropdown(places, value=places[0], label="The entry whose gradient is shown")

    def shown(value: dict[str, Any], soft: float, softer: float, place: str) -> tuple[str, str]:
        at = divmod(places.index(place), START.shape[1])
        numbers = costs_of(value)
        return show_assignments(numbers, soft, softer, at), show_gradients(numbers, soft, softer, at)

    start = shown(cost_rows(START), 0.1, 0.05, places[0])
    assigned = gr.HTML(start[0])
    gr.Markdown(_SLOPES)
    sloped = gr.HTML(start[1])
    showing = {"fn": shown, "inputs": [cost, gamma, epsilon, entry], "outputs": [assigned, sloped]}
    for changed in (cost.input, gamma.change, epsilon.change, entry.change):
        changed(**showing, show_progress="hidden")
    generator = np.random.default_rng(0)
    anew.click(lambda: cost_rows(generator.random(START.shape).round(2)), None, [cost]).then(**showing)
    reset.click(lambda: cost_rows(START), None, [cost]).then(**showing)
