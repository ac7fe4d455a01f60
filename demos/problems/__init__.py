"""Five kinds of problems, learnt from solutions: one pass, search, and exact solving with the rules that came out."""
