"""Sudoku learnt from examples alone, by one SATNet layer.

``python -m demos.sudoku`` trains a 4x4 solver from nothing in about a minute; ``python -m demos.sudoku
--help`` lists the rest: training on 9x9 boards, fitting a layer to them, evaluation, solving puzzles, generating puzzles.

Nothing in the network knows the rules of Sudoku, or even that there are rows, columns and boxes. It sees each
board as ``N ** 3`` bits, bit ``(row * N + column) * N + digit - 1`` saying "this cell holds this digit".

==================  ======================================================================================
`.demo`             the example, to be read first: from boards to a trained layer and its answers
`.options`          the commands and their options
`.commands`         what each command does
`.config`           what a training run is made of
`.boards`           what a board is: the rules, text in and out
`.generator`        puzzles with exactly one solution, seeded; `.digging` is its compiled part
`.data`             bits, CSV files, the split into training and test boards
`.images`           boards whose given cells are images of digits
`.model`            the networks and their loss
`.train`            the training loop; `.masks` makes puzzles of solved boards for it
`.checkpoint`       one safetensors file holding all that a resumed run needs
`.evaluation`       how a network does on boards: in one pass, by search, by joint decoding
`.rules`            what a layer has learnt beside the rules; `.extraction` reads rules off it
`.plots`            the learning-curve picture; `.gallery` draws boards of images
`.reading`          readers of images of digits, taught with labels or without
`.photo`            photographed puzzles: found, read and solved
==================  ======================================================================================
"""
