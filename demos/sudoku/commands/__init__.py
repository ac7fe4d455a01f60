"""What the commands of ``python -m demos.sudoku`` do; their options are in `demos.sudoku.options`."""
