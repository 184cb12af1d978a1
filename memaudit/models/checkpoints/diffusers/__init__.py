"""What diffusers saves: the files of a folder, what its scheduler implies, its network."""
