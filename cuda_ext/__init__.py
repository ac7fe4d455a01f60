"""CUDA C++ sources, as package data (`importlib.resources.files("difflayers.cuda_ext")`): compiled on the user's machine."""
