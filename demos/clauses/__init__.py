"""Rules as clauses, with no training, and rules read out of a trained layer. `queens` is the example: read it first."""
