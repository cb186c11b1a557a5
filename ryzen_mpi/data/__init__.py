"""Where training samples come from: token sources, tokenizers, and the order they are read in.

Nothing here knows of ranks, tensors or MPI: numpy in, numpy out. `sampler` says which samples a
step trains, a `TokenSource` says what is in them, `prepare` turns text files into one.
"""
