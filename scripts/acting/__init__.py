"""The same loop of RL^2 as metaexp's, elsewhere: JAX, and a gymnasium vector environment."""
