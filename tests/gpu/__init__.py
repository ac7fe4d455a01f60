"""Tests of the CUDA kernels: compiled by NVRTC, and run on the host or (marker gpu) on a device."""
