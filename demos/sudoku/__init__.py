"""Sudoku learnt from examples alone, by one SATNet layer.

``python -m demos.sudoku`` trains a 4x4 solver from nothing in about a minute; ``python -m demos.sudoku
--help`` lists the rest: training on 9x9 boards, evaluation, solving puzzles, generating puzzles.

Nothing in the network knows the rules of Sudoku, or even that there are rows, columns and boxes. It sees each
board as ``N ** 3`` bits, bit ``(row * N + column) * N + digit - 1`` saying "this cell holds this digit".

========================  ====================================================================================
:mod:`~.boards`           what a board is: the rules, text in and out
:mod:`~.generator`        puzzles with exactly one solution, seeded
:mod:`~.data`             bits, CSV files, the split into training and test boards
:mod:`~.model`            the network and its loss
:mod:`~.checkpoint`       one safetensors file holding all that a resumed run needs
:mod:`~.train`            the training loop and the evaluation
:mod:`~.plots`            the learning-curve picture
========================  ====================================================================================
"""
