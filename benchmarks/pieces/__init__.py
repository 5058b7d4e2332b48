"""The pieces of the GPU battery: correctness, speed and robustness."""
