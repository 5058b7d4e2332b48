"""Training, evaluation and what keeps them safe."""
