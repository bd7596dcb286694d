"""SOURCE: what the command line is given, as a network with its weights and its input."""
