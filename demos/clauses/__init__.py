"""Rules put in as clauses, with no training, and rules read out of a trained layer."""
