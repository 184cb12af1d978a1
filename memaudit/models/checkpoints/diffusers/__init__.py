"""What diffusers saves: which files a folder holds, what its scheduler implies, its network."""
