"""Rules that look at a run's steps, and the acts they answer with."""
