"""The constraints of a table, learnt from its rows: complete rows, check rows, list the rules."""
