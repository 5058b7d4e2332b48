"""Many trainings and evaluations in one call, and what they say together."""
