"""Training, and what keeps it safe."""
