"""Video object segmentation by matching mask proposals.

`demo` is the example, from data to result: read it first. Then, in the order of a frame's way, `synthetic` and `data`,
`proposals`, `model`, `tracking`; and of a training's, `samples`, `losses`, `train`.
"""
