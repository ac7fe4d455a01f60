"""One matching problem, solved by every method of the package, as numbers and as a picture."""
