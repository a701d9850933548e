"""Experience: frame pairs and trajectories from any Gymnasium vector env, with Ray or without."""
