"""Sudoku learnt from examples alone, by one SATNet layer.

``python -m demos.sudoku`` trains a 4x4 solver from nothing in about a minute; ``python -m demos.sudoku
--help`` lists the rest: training on 9x9 boards, evaluation, solving puzzles, generating puzzles.

Nothing in the network knows the rules of Sudoku, or even that there are rows, columns and boxes. It sees each
board as ``N ** 3`` bits, bit ``(row * N + column) * N + digit - 1`` saying "this cell holds this digit".

========================  ======================================================================================
:mod:`~.demo`             the example, to be read first: from boards to a trained layer and its answers
:mod:`~.options`          the commands and their options
:mod:`~.commands`         what each command does
:mod:`~.config`           what a training run is made of
:mod:`~.boards`           what a board is: the rules, text in and out
:mod:`~.generator`        puzzles with exactly one solution, seeded; :mod:`~.digging` is its compiled part
:mod:`~.data`             bits, CSV files, the split into training and test boards
:mod:`~.images`           boards whose given cells are images of digits
:mod:`~.model`            the networks and their loss
:mod:`~.train`            the training loop; :mod:`~.masks` makes puzzles of solved boards for it
:mod:`~.checkpoint`       one safetensors file holding all that a resumed run needs
:mod:`~.evaluation`       how a network does on boards: in one pass, by search, by joint decoding
:mod:`~.rules`            what a layer has learnt beside the rules; :mod:`~.extraction` reads rules off it
:mod:`~.plots`            the learning-curve picture; :mod:`~.gallery` draws boards of images
:mod:`~.photo`            photographed puzzles: found, read and solved
========================  ======================================================================================
"""
