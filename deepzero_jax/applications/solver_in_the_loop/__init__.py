"""Learning to correct a coarse solver that nobody can differentiate."""
